//! The part of a checkpoint that is in the node's store.

use std::collections::HashMap;

use cedana_store::chunk::Name;
use serde::Serialize;

use crate::format::Error;
use crate::format::manifest::{Kind, Manifest};
use crate::format::pages::{Damage, Stored, read_list};
use crate::opened::OpenedDir;

/// The memory of a checkpoint that is in the node's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InStore {
    /// The ID of the checkpoint in the store's catalogue.
    pub id: String,
    /// The number of its chunks, each counted once. Other checkpoints may have them, too.
    pub chunks: u64,
    /// The bytes of these chunks in the store.
    pub stored_bytes: u64,
}

/// Reads the lists of chunks, without the store.
pub(super) fn of(opened: &OpenedDir, manifest: &Manifest) -> Result<Option<InStore>, Error> {
    let Some(store) = &manifest.store else {
        return Ok(None);
    };
    let mut chunks: HashMap<Name, u32> = HashMap::new();
    for entry in manifest
        .files
        .iter()
        .filter(|entry| entry.kind == Kind::Chunks)
    {
        let path = opened.path().join(&entry.name);
        let stored = match opened.file(&entry.name) {
            Ok(file) => Stored { path, file },
            Err(source) => return Err(Damage::Read { file: path, source }.into()),
        };
        let list = read_list(&stored, entry.size, None)?;
        let found = list.chunks.iter();
        chunks.extend(found.map(|chunk| (chunk.name, chunk.place.stored)));
    }
    Ok(Some(InStore {
        id: store.id.clone(),
        chunks: chunks.len() as u64,
        stored_bytes: chunks.values().map(|stored| u64::from(*stored)).sum(),
    }))
}
