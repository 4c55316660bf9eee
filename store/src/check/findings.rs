//! What a check found.

use std::fmt;
use std::path::PathBuf;

use crate::catalogue::CheckpointId;
use crate::chunk::Name;
use crate::pack::PackId;

/// What a check found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is damaged, or was.
    pub findings: Vec<Finding>,
    /// What was repaired, for people.
    pub repaired: Vec<String>,
    /// The packs that were verified.
    pub packs: u64,
    /// The chunks that were verified.
    pub chunks: u64,
}

impl Outcome {
    /// Whether checkpoints are damaged, or something is and was not repaired.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let is_checkpoint = |finding: &Finding| matches!(finding, Finding::Checkpoint { .. });
        match self.repaired.is_empty() {
            true => !self.findings.is_empty(),
            false => self.findings.iter().any(is_checkpoint),
        }
    }
}

/// Damage. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The catalogue is damaged or lost.
    Catalogue {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A pack is missing, or its end is damaged.
    Pack {
        /// The pack.
        pack: PackId,
        /// What is wrong.
        why: String,
    },
    /// A chunk is damaged.
    Chunk {
        /// Its name.
        name: Name,
        /// Its pack, and what is wrong.
        why: String,
    },
    /// A checkpoint needs chunks that are damaged or lost.
    Checkpoint {
        /// Its ID.
        id: Option<CheckpointId>,
        /// Its name.
        name: Option<String>,
        /// Where it was written to.
        path: PathBuf,
        /// The number of chunks.
        missing: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalogue { path, why } => {
                write!(f, "the catalogue {} is damaged: {why}", path.display())
            }
            Self::Pack { pack, why } => write!(f, "pack {pack}: {why}"),
            Self::Chunk { why, .. } => f.write_str(why),
            Self::Checkpoint {
                name,
                path,
                missing,
                ..
            } => write!(
                f,
                "the checkpoint {}{} needs {missing} chunks that are damaged or lost: it can't be restored until a checkpoint with the same memory is taken, or from an export",
                name.as_ref()
                    .map_or_else(String::new, |name| format!("{name}, ")),
                path.display()
            ),
        }
    }
}
