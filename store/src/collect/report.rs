//! What a collection did.

use std::path::PathBuf;

use crate::catalogue::{CheckpointId, CheckpointRow};

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing was changed.
    pub is_dry_run: bool,
    /// The checkpoints that were looked at.
    pub checkpoints: u64,
    /// Those that something refers to.
    pub referenced: u64,
    /// Those that could not be looked for, with the reasons.
    pub unknown: Vec<(PathBuf, String)>,
    /// Those that were removed from the catalogue.
    pub removed: Vec<RemovedCheckpoint>,
    /// Those that are gone, and are kept until the grace time has passed.
    pub in_grace: u64,
    /// The chunks that were removed.
    pub chunks: u64,
    /// The packs that were removed because no chunk of them is used.
    pub packs: u64,
    /// The packs that were written again without their unused chunks.
    pub compacted: u64,
    /// The files of killed writers that were removed.
    pub leftovers: u64,
    /// The bytes of removed files without those that were written again.
    pub freed_bytes: u64,
    /// The packs of a lost catalogue, which are left for a repair.
    pub unknown_packs: u64,
    /// The store was in use; what was left is removed by the next collection.
    pub is_busy: bool,
    /// Damage that was found while chunks were copied.
    pub damaged: Vec<String>,
}

/// A checkpoint that was removed from the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedCheckpoint {
    /// Its ID.
    pub id: Option<CheckpointId>,
    /// Its name.
    pub name: Option<String>,
    /// Where it was.
    pub path: PathBuf,
}

impl RemovedCheckpoint {
    pub(super) fn of(row: &CheckpointRow) -> Self {
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            path: row.path.clone(),
        }
    }
}

impl Report {
    /// Whether anything was removed.
    #[must_use]
    pub fn has_removed(&self) -> bool {
        !self.removed.is_empty() || self.chunks + self.packs + self.compacted + self.leftovers > 0
    }
}
