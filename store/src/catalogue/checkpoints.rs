//! Checkpoints, as the catalogue has them.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use super::Catalogue;
use crate::Error;

/// The number that ties a checkpoint's directory to its row: random, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointId(String);

impl CheckpointId {
    /// A new one.
    ///
    /// # Errors
    /// /dev/urandom can't be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// The ID of this text; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 32
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A checkpoint that is added to the catalogue.
#[derive(Debug, Clone)]
pub struct NewCheckpoint {
    /// Its ID.
    pub id: CheckpointId,
    /// The name that people give it.
    pub name: Option<String>,
    /// The directory or archive that it was written to.
    pub path: PathBuf,
    /// The bytes of memory.
    pub raw_bytes: u64,
    /// The bytes of the directory.
    pub bytes: u64,
    /// What it is of: JSON, for the one that looks for references.
    pub subject: serde_json::Value,
    /// Machine, versions, specification, image and cost: JSON, for people.
    pub details: serde_json::Value,
}

impl Catalogue {
    /// Removes a checkpoint. Its chunks are collected.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove(&mut self, id: &CheckpointId) -> Result<(), Error> {
        let failed = self.failed();
        let query = "DELETE FROM checkpoints WHERE id = ?1";
        let removed = self.connection().execute(query, [id.as_str()]);
        removed.map(|_| ()).map_err(failed)
    }
}
