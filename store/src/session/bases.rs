//! The chunks that new ones are compared with.
//!
//! The page digests of a base are at the end of its pack. A checkpoint is compared with an
//! earlier one of the same memory in the same order, so the ends of a few packs are read
//! once each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Store;
use crate::catalogue::Located;
use crate::pack::{Index, PackId};

/// Bytes of the indexes that are kept: those of a handful of packs. A page has 16 bytes.
const KEPT: usize = 24 << 20;

/// See the module's documentation.
pub(super) struct Bases {
    store: Store,
    /// The newest last.
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    pack: PackId,
    /// `None` if the pack can't be read: its chunks are no bases then.
    index: Option<Arc<Index>>,
    bytes: usize,
}

impl Bases {
    pub(super) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            kept: Mutex::default(),
        }
    }

    /// The index of a chunk's pack, and the chunk's number in it. `None` if the pack is
    /// damaged: new chunks are then stored whole.
    pub(super) fn find(&self, chunk: &Located) -> Option<(Arc<Index>, usize)> {
        let index = self.index(chunk.pack)?;
        let entries = &index.entries;
        let number = entries.binary_search_by_key(&chunk.offset, |entry| entry.offset);
        let number = number.ok()?;
        (entries[number].name == chunk.name).then_some((index, number))
    }

    fn index(&self, pack: PackId) -> Option<Arc<Index>> {
        // Held while the pack is read: the other workers need the same one.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|kept| kept.pack == pack) {
            let found = kept.remove(at)?;
            let index = found.index.clone();
            kept.push_back(found);
            return index;
        }
        let object = self.store.place().open(&pack.file_name()).ok();
        let index = object.and_then(|object| Index::read(&*object).ok());
        let bytes = index.as_ref().map_or(0, |index| {
            let digests = index.entries.iter().map(|entry| entry.digests.len() * 16);
            digests.sum::<usize>() + index.entries.len() * 112
        });
        let index = index.map(Arc::new);
        kept.push_back(Kept {
            pack,
            index: index.clone(),
            bytes,
        });
        while kept.len() > 1 && kept.iter().map(|kept| kept.bytes).sum::<usize>() > KEPT {
            kept.pop_front();
        }
        index
    }
}
