//! Reading the memory of a checkpoint: the chunks of a list, from any number of threads.
//!
//! Everything is opened at once. A pack that is deleted later stays readable, so a
//! collection does not disturb a lazy restore, however long it takes. No byte is returned
//! before its chunk has been compared with its name.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use crate::catalogue::{self, Catalogue, Located};
use crate::chunk::{MAX, Name, PAGE};
use crate::error::file;
use crate::list::{List, Place};
use crate::pack::{Decoder, Fault, Frame, PackId};
use crate::place::Object;
use crate::{Error, Guard, Store};

/// The memory of one page file, open for reading.
#[derive(Debug)]
pub struct Memory {
    packs: Vec<Pack>,
    chunks: Vec<Placed>,
    windows: Vec<Window>,
    raw_bytes: u64,
    page_size: u32,
    list_bytes: u64,
}

/// A chunk, where it is now.
#[derive(Debug, Clone, Copy)]
struct Placed {
    name: Name,
    pages: u32,
    place: Place,
    base: Option<u32>,
}

impl Placed {
    /// A chunk that is not decoded.
    fn nowhere(name: Name, pages: u32) -> Self {
        Self {
            name,
            pages,
            place: Place {
                pack: u32::MAX,
                offset: 0,
                stored: 0,
            },
            base: None,
        }
    }
}

/// A part of the memory that is decoded at once.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: u64,
    /// `None` for zeros.
    chunk: Option<u32>,
}

impl Memory {
    /// Opens the memory of one list. Those of a checkpoint share what an [`Opener`] opens.
    ///
    /// # Errors
    /// A chunk is missing, or the store can't be read.
    pub fn open(store: &Store, list: &List) -> Result<Self, Error> {
        Opener::new(store).open(list)
    }

    /// The bytes of memory.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// The size of the pages of the machine that it is of.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// The number of its windows.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The most bytes of a window.
    pub const MAX_WINDOW: usize = MAX;

    /// The window with an offset, which is below [`Self::raw_bytes`].
    #[must_use]
    pub fn window_at(&self, offset: u64) -> usize {
        let after = self
            .windows
            .partition_point(|window| window.start <= offset);
        after.saturating_sub(1)
    }

    /// The bytes of a window. Beyond the last one it is empty.
    #[must_use]
    pub fn range(&self, window: usize) -> Range<u64> {
        let start = |number: usize| match self.windows.get(number) {
            Some(window) => window.start,
            None => self.raw_bytes,
        };
        start(window)..start(window + 1)
    }

    /// Whether a window is zeros, which are not stored.
    #[must_use]
    pub fn is_zeros(&self, window: usize) -> bool {
        self.windows
            .get(window)
            .is_some_and(|window| window.chunk.is_none())
    }

    /// The bytes that its chunks have in the store, without those that are shared within
    /// the list, and those of the list itself.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let frames = self
            .chunks
            .iter()
            .map(|chunk| u64::from(chunk.place.stored));
        frames.sum::<u64>() + self.list_bytes
    }

    /// Decodes and verifies a window into a buffer of its length. What is in the buffer
    /// after an error must not be used.
    ///
    /// # Errors
    /// A chunk can't be read or is damaged; the error names it.
    ///
    /// # Panics
    /// There is no such window, or `out` has another length.
    pub fn decode(
        &self,
        window: usize,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<(), Fault> {
        match self.windows[window].chunk {
            None => {
                out.fill(0);
                Ok(())
            }
            Some(chunk) => {
                let chunk = &self.chunks[chunk as usize];
                let base = chunk
                    .base
                    .map(|base| self.frame(&self.chunks[base as usize]));
                decoder.decode(&self.frame(chunk), base.as_ref(), out)
            }
        }
    }

    fn frame(&self, chunk: &Placed) -> Frame<'_> {
        let pack = &self.packs[chunk.place.pack as usize];
        Frame {
            pack: &*pack.object,
            id: pack.id,
            offset: chunk.place.offset,
            stored: chunk.place.stored,
            name: chunk.name,
            pages: chunk.pages,
        }
    }
}

/// An open pack.
#[derive(Debug, Clone)]
struct Pack {
    id: PackId,
    object: Arc<dyn Object>,
    length: u64,
}

/// Opens the memory of the lists of a checkpoint. A pack is opened once for all of them,
/// because a checkpoint of many processes has as many lists. No chunk is removed while it
/// lives.
#[derive(Debug)]
pub struct Opener {
    store: Store,
    packs: Vec<Pack>,
    /// The packs by ID; `None` for one that is not there.
    numbers: HashMap<PackId, Option<u32>>,
    catalogue: Option<Catalogue>,
    _guard: Option<Guard>,
}

impl Opener {
    /// An opener of a store's memory.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            packs: Vec::new(),
            numbers: HashMap::new(),
            catalogue: None,
            // A store on a read-only file system may lack the lock, and is not collected.
            _guard: store.guard().ok(),
        }
    }

    /// Opens the memory of a list, and looks whether all of it is there.
    ///
    /// # Errors
    /// A chunk is missing, or the store can't be read.
    pub fn open(&mut self, list: &List) -> Result<Memory, Error> {
        let packs = list.packs.iter().map(|pack| self.pack(*pack));
        let packs = packs.collect::<Result<Vec<_>, _>>()?;
        let mut chunks: Vec<Option<Placed>> = Vec::new();
        for chunk in &list.chunks {
            let place = packs
                .get(chunk.place.pack as usize)
                .copied()
                .flatten()
                .map(|pack| Place {
                    pack,
                    ..chunk.place
                })
                .filter(|place| self.holds(place));
            chunks.push(place.map(|place| Placed {
                name: chunk.name,
                pages: chunk.pages,
                place,
                base: chunk.base,
            }));
        }
        // A chunk whose base is lost is, too.
        let known: Vec<bool> = chunks.iter().map(Option::is_some).collect();
        let mut is_memory = vec![false; list.chunks.len()];
        for chunk in list.runs.iter().filter_map(|run| run.chunk) {
            is_memory[chunk as usize] = true;
        }
        let mut placed = Vec::with_capacity(chunks.len());
        let mut more = Vec::new();
        for (number, chunk) in chunks.into_iter().enumerate() {
            let based = |chunk: &Placed| chunk.base.is_none_or(|base| known[base as usize]);
            placed.push(match chunk.filter(based) {
                Some(chunk) => chunk,
                None => {
                    let lost = &list.chunks[number];
                    let first = (list.chunks.len() + more.len()) as u32;
                    match self.find(&lost.name, lost.pages, first, &mut more)? {
                        Some(found) => found,
                        // The base alone: what was a patch on it is stored otherwise now,
                        // because another checkpoint stored the same chunk.
                        None if !is_memory[number] => Placed::nowhere(lost.name, lost.pages),
                        None => {
                            return Err(Error::Missing {
                                name: lost.name,
                                offset: offset_of(list, number as u32),
                                path: self.store.path().to_owned(),
                            });
                        }
                    }
                }
            });
        }
        placed.extend(more);
        let (windows, raw_bytes) = windows(list);
        Ok(Memory {
            packs: self.packs.clone(),
            chunks: placed,
            windows,
            raw_bytes,
            page_size: list.page_size,
            list_bytes: list.render_length(),
        })
    }

    /// The number of an open pack; `None` if there is none of that ID.
    fn pack(&mut self, id: PackId) -> Result<Option<u32>, Error> {
        if let Some(number) = self.numbers.get(&id) {
            return Ok(*number);
        }
        let name = id.file_name();
        let named = |error| file("open", &self.store.path().join(&name))(error);
        let number = match self.store.place().open(&name) {
            Ok(pack) => {
                self.packs.push(Pack {
                    id,
                    length: pack.length().map_err(named)?,
                    object: pack.into(),
                });
                Some(self.packs.len() as u32 - 1)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(named(error)),
        };
        self.numbers.insert(id, number);
        Ok(number)
    }

    /// Whether a pack is long enough for a chunk.
    fn holds(&self, place: &Place) -> bool {
        let end = place.offset.saturating_add(place.stored.into());
        end <= self.packs[place.pack as usize].length
    }

    /// A chunk that is not where the list says: where the catalogue knows it. Its base
    /// may be another one, which is added to `more`, from number `first` on.
    fn find(
        &mut self,
        name: &Name,
        pages: u32,
        first: u32,
        more: &mut Vec<Placed>,
    ) -> Result<Option<Placed>, Error> {
        let Some(catalogue) = self.catalogue()? else {
            return Ok(None);
        };
        let found = catalogue.chunk(name)?;
        let Some(found) = found.filter(|found| found.pages == pages) else {
            return Ok(None);
        };
        let Some(chunk) = self.placed(&found)? else {
            return Ok(None);
        };
        let Some(base) = found.base else {
            return Ok(Some(chunk));
        };
        let base = match self.catalogue()? {
            Some(catalogue) => catalogue.numbered(base)?,
            None => None,
        };
        let Some(base) = base.filter(|base| base.base.is_none()) else {
            return Ok(None);
        };
        let Some(base) = self.placed(&base)? else {
            return Ok(None);
        };
        more.push(base);
        Ok(Some(Placed {
            base: Some(first),
            ..chunk
        }))
    }

    fn placed(&mut self, found: &Located) -> Result<Option<Placed>, Error> {
        let Some(pack) = self.pack(found.pack)? else {
            return Ok(None);
        };
        let place = Place {
            pack,
            offset: found.offset,
            stored: found.stored,
        };
        Ok(self.holds(&place).then_some(Placed {
            name: found.name,
            pages: found.pages,
            place,
            base: None,
        }))
    }

    /// The catalogue; `None` if the store has none: it is lost, or of another node.
    fn catalogue(&mut self) -> Result<Option<&mut Catalogue>, Error> {
        if self.catalogue.is_none() {
            let path = self.store.path();
            if !path.join(catalogue::FILE).exists() {
                return Ok(None);
            }
            self.catalogue = Some(Catalogue::open_read_only(path)?);
        }
        Ok(self.catalogue.as_mut())
    }
}

/// The offset of a chunk's first use in the memory; a base's is that of a chunk on it.
fn offset_of(list: &List, chunk: u32) -> u64 {
    let is_it = |number: u32| number == chunk || list.chunks[number as usize].base == Some(chunk);
    let before = list
        .runs
        .iter()
        .take_while(|run| !run.chunk.is_some_and(is_it));
    before.map(|run| u64::from(run.pages) * PAGE as u64).sum()
}

/// The windows of a list, and its bytes. Zeros are divided, so that a buffer for the
/// largest chunk is enough.
fn windows(list: &List) -> (Vec<Window>, u64) {
    let mut windows = Vec::with_capacity(list.runs.len());
    let mut start = 0;
    for run in &list.runs {
        let end = start + u64::from(run.pages) * PAGE as u64;
        match run.chunk {
            Some(_) => windows.push(Window {
                start,
                chunk: run.chunk,
            }),
            None => {
                let zeros = (start..end).step_by(MAX);
                windows.extend(zeros.map(|start| Window { start, chunk: None }));
            }
        }
        start = end;
    }
    (windows, start)
}

#[cfg(test)]
mod tests;
