//! Writing the memory of a checkpoint.
//!
//! ```text
//! begin    quota, lock, catalogue            before the container stands still
//! workers  page files ─► chunks ─► frames    beside CRIU
//! seal     the packs' ends
//! publish  sync, rename, catalogue           then the checkpoint's directory is published
//! ```
//!
//! Any number of [`Worker`]s share a session. Each computes the names of its chunks and
//! looks them up without a lock; of two that find the same new chunk, the first stores it.
//! A new chunk is compared with a similar one that the store has, and what both share is
//! not stored again.
//!
//! A session that is dropped before it is published removes its drafts; one that is killed
//! leaves them in `incoming/`, unlocked, for a collection.

mod bases;
pub(crate) mod drafts;
mod worker;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub use worker::{Part, Worker};

use crate::catalogue::{CheckpointId, Located, NewCheckpoint, NewChunk, Publication};
use crate::chunk::Name;
use crate::list::{Chunk, List, Place, Run};
use crate::pack::Sink;
use crate::{Error, Guard, Store};
use bases::Bases;
use drafts::Drafts;

/// Makes the sink of a pack's file.
pub type OpenSink = dyn Fn(File, &Path) -> io::Result<Box<dyn Sink>> + Send + Sync;

/// Options of a session.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// zstd's level.
    pub level: i32,
    /// The size of the machine's pages in bytes.
    pub page_size: u32,
    /// The most bytes that the store may have; `None` for as many as the disk has.
    pub quota: Option<u64>,
}

/// A checkpoint whose memory is being written; see the module's documentation.
pub struct Session {
    store: Store,
    options: Options,
    bases: Bases,
    state: Mutex<State>,
    /// The checkpoint, once it is published.
    published: OnceLock<CheckpointId>,
    _guard: Guard,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("store", &self.store)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

struct State {
    drafts: Drafts,
    /// The new chunks, in the order in which they were stored.
    chunks: Vec<NewChunk>,
    /// The new chunks by name. One without a number is being compressed.
    new: HashMap<Name, Option<u32>>,
    /// The chunks that the store had, and the bases of new ones.
    known: HashMap<Name, Located>,
    /// The known chunks that are part of the memory, with their numbers.
    used: HashMap<Name, i64>,
    /// The numbers of bases, with their names.
    bases: HashMap<i64, Name>,
}

/// What a session has added to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// The number of new chunks.
    pub chunks: u64,
    /// The bytes of new packs.
    pub bytes: u64,
}

impl Session {
    /// Begins a session. `open` makes the sinks of its packs.
    ///
    /// # Errors
    /// The quota is used up, or the store can't be used.
    pub fn begin(store: &Store, options: Options, open: Box<OpenSink>) -> Result<Self, Error> {
        let guard = store.guard()?;
        let used = store.catalogue()?.used_bytes()?;
        let drafts = Drafts::new(store, options.quota, used, open)?;
        Ok(Self {
            store: store.clone(),
            options,
            bases: Bases::new(store),
            state: Mutex::new(State {
                drafts,
                chunks: Vec::new(),
                new: HashMap::new(),
                known: HashMap::new(),
                used: HashMap::new(),
                bases: HashMap::new(),
            }),
            published: OnceLock::new(),
            _guard: guard,
        })
    }

    /// Its options.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Ends the packs. All workers have ended. The sinks may still be writing.
    ///
    /// # Errors
    /// A pack can't be written.
    pub fn seal(&self) -> Result<Added, Error> {
        let mut state = self.state();
        state.drafts.end()?;
        Ok(Added {
            chunks: state.chunks.len() as u64,
            bytes: state.drafts.bytes(),
        })
    }

    /// The list of a page file, whose memory has these parts.
    ///
    /// # Panics
    /// A part is not of this session's workers.
    #[must_use]
    pub fn list(&self, parts: &[Part]) -> List {
        let state = self.state();
        let mut list = Listing {
            state: &state,
            list: List {
                page_size: self.options.page_size,
                packs: Vec::new(),
                chunks: Vec::new(),
                runs: Vec::new(),
            },
            chunks: HashMap::new(),
            packs: HashMap::new(),
        };
        for part in parts {
            let chunk = part.name.map(|name| list.chunk(name));
            match (list.list.runs.last_mut(), chunk) {
                // Zeros that arrived in two pieces.
                (Some(Run { chunk: None, pages }), None) => *pages += part.pages,
                _ => list.list.runs.push(Run {
                    chunk,
                    pages: part.pages,
                }),
            }
        }
        list.list
    }

    /// Publishes packs and chunks with their checkpoint, which is durable on return. The
    /// sinks have ended. Without a directory the checkpoint is collected after a while.
    ///
    /// # Errors
    /// A pack can't be moved, or the catalogue can't be written. Nothing is added then.
    pub fn publish(&self, checkpoint: &NewCheckpoint) -> Result<(), Error> {
        let mut state = self.state();
        let packs = state.drafts.publish(&self.store)?;
        let known: Vec<i64> = state.used.values().copied().collect();
        self.store.catalogue()?.publish(&Publication {
            checkpoint,
            packs: &packs,
            chunks: &state.chunks,
            known: &known,
        })?;
        state.drafts.keep();
        let _ = self.published.set(checkpoint.id.clone());
        Ok(())
    }

    /// Notes that the published checkpoint was written to another path.
    ///
    /// # Errors
    /// The catalogue can't be written.
    pub fn set_path(&self, path: &Path) -> Result<(), Error> {
        match self.published.get() {
            Some(id) => self.store.catalogue()?.set_path(id, path),
            None => Ok(()),
        }
    }

    /// Removes the published checkpoint, whose directory could not be: its packs are
    /// collected.
    ///
    /// # Errors
    /// The catalogue can't be written.
    pub fn withdraw(&self) -> Result<(), Error> {
        match self.published.get() {
            Some(id) => self.store.catalogue()?.remove(id),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A list that is being made.
struct Listing<'a> {
    state: &'a State,
    list: List,
    chunks: HashMap<Name, u32>,
    packs: HashMap<crate::pack::PackId, u32>,
}

impl Listing<'_> {
    /// The number of a chunk in the list, with its base before it.
    fn chunk(&mut self, name: Name) -> u32 {
        if let Some(number) = self.chunks.get(&name) {
            return *number;
        }
        let new = self.state.new.get(&name).copied().flatten();
        let (pack, offset, stored, pages, base) = match new {
            Some(new) => {
                let chunk = &self.state.chunks[new as usize];
                let pack = self.state.drafts.id(chunk.pack);
                (pack, chunk.offset, chunk.stored, chunk.pages, chunk.base)
            }
            None => {
                let chunk = self
                    .state
                    .known
                    .get(&name)
                    .expect("a chunk of this session");
                (
                    chunk.pack,
                    chunk.offset,
                    chunk.stored,
                    chunk.pages,
                    chunk.base,
                )
            }
        };
        let base = base.map(|base| self.chunk(self.state.bases[&base]));
        let packs = &mut self.list.packs;
        let pack = *self.packs.entry(pack).or_insert_with(|| {
            packs.push(pack);
            packs.len() as u32 - 1
        });
        let number = self.list.chunks.len() as u32;
        self.list.chunks.push(Chunk {
            name,
            place: Place {
                pack,
                offset,
                stored,
            },
            pages,
            base,
        });
        self.chunks.insert(name, number);
        number
    }
}

#[cfg(test)]
mod tests;
