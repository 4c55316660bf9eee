//! One thread of a session.

use std::collections::hash_map;
use std::sync::Arc;

use super::Session;
use crate::Error;
use crate::catalogue::{Catalogue, Located, NewChunk};
use crate::chunk::{Cut, Name, PAGE, Pages, Sketch};
use crate::pack::Encoder;

/// A part of a page file's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The chunk; `None` for zeros.
    pub name: Option<Name>,
    /// Its pages, of 4096 bytes.
    pub pages: u32,
}

/// Stores chunks, with buffers for reuse.
pub struct Worker {
    session: Arc<Session>,
    catalogue: Catalogue,
    encoder: Encoder,
    pages: Pages,
    frame: Vec<u8>,
}

impl Worker {
    /// A worker of a session.
    ///
    /// # Errors
    /// The catalogue can't be opened.
    pub fn new(session: &Arc<Session>) -> Result<Self, Error> {
        Ok(Self {
            catalogue: session.store.catalogue()?,
            encoder: Encoder::new(session.options.level).map_err(Error::Encoder)?,
            session: Arc::clone(session),
            pages: Pages::default(),
            frame: Vec::new(),
        })
    }

    /// Stores the chunks of `bytes`, which begin with the first cut, and returns what they
    /// were. A chunk that is stored already costs no more than its name.
    ///
    /// # Errors
    /// The disk or the quota is full, or the catalogue can't be read.
    pub fn store(&mut self, bytes: &[u8], cuts: &[Cut]) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::with_capacity(cuts.len());
        let mut start = 0;
        for cut in cuts {
            let end = start + cut.bytes();
            let name = match cut {
                Cut::Chunk(_) => Some(self.chunk(&bytes[start..end])?),
                Cut::Zeros(_) => None,
            };
            parts.push(Part {
                name,
                // Fits: a buffer has less than 2^44 bytes.
                pages: (cut.bytes() / PAGE) as u32,
            });
            start = end;
        }
        Ok(parts)
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<Name, Error> {
        self.pages.set(bytes);
        let name = self.pages.name();
        {
            let state = self.session.state();
            if state.new.contains_key(&name) || state.used.contains_key(&name) {
                return Ok(name);
            }
        }
        if let Some(known) = self.catalogue.chunk(&name)? {
            self.use_known(known)?;
            return Ok(name);
        }
        match self.session.state().new.entry(name) {
            // Another worker stores it.
            hash_map::Entry::Occupied(_) => return Ok(name),
            hash_map::Entry::Vacant(entry) => entry.insert(None),
        };
        let sketch = Sketch::of(&self.pages);
        self.frame.clear();
        let base = match &sketch {
            Some(sketch) => self.patch(bytes, sketch)?,
            None => None,
        };
        if base.is_none() {
            self.encoder
                .plain(bytes, &mut self.frame)
                .map_err(Error::Encoder)?;
        }
        let mut state = self.session.state();
        let base_name = base.as_ref().map(|base| base.name);
        let (pack, offset) = state
            .drafts
            .add(name, base_name, &self.pages, &self.frame)?;
        let number = state.chunks.len() as u32;
        state.chunks.push(NewChunk {
            name,
            pack,
            offset,
            // Fit: a chunk has at most a MiB.
            stored: self.frame.len() as u32,
            pages: self.pages.0.len() as u32,
            base: base.as_ref().map(|base| base.number),
            // Only a chunk that is stored whole is a base.
            sketch: sketch.filter(|_| base.is_none()),
        });
        state.new.insert(name, Some(number));
        if let Some(base) = base {
            state.bases.insert(base.number, base.name);
            state.known.entry(base.name).or_insert(base);
        }
        Ok(name)
    }

    /// Compresses a chunk as a patch on a similar one, and returns that; `None` if there is
    /// none, and nothing was compressed.
    fn patch(&mut self, bytes: &[u8], sketch: &Sketch) -> Result<Option<Located>, Error> {
        for similar in self.catalogue.similar(sketch)? {
            let base = similar.chunk;
            let Some((index, entry)) = self.session.bases.find(&base) else {
                continue;
            };
            let digests = &index.entries[entry].digests;
            let is_patch = self
                .encoder
                .patch(bytes, &self.pages, digests, &mut self.frame)
                .map_err(Error::Encoder)?;
            if is_patch {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// Notes a chunk that the store has, and its base.
    fn use_known(&mut self, known: Located) -> Result<(), Error> {
        let base = match known.base {
            Some(base) => self.catalogue.numbered(base)?,
            None => None,
        };
        let mut state = self.session.state();
        if let Some(base) = base {
            state.bases.insert(base.number, base.name);
            state.known.entry(base.name).or_insert(base);
        }
        state.used.insert(known.name, known.number);
        state.known.insert(known.name, known);
        Ok(())
    }
}
