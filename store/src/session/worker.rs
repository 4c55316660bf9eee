//! One thread of a session.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;

use super::Session;
use crate::Error;
use crate::catalogue::{Catalogue, Located, NewChunk};
use crate::chunk::{Cut, Name, PAGE, PageDigest, Pages, Sketch};
use crate::pack::{Encoder, Index};

/// A part of a page file's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The chunk; `None` for zeros.
    pub name: Option<Name>,
    /// Its pages, of 4096 bytes.
    pub pages: u32,
}

/// The fewest pages that a chunk is divided for.
const DIVIDED: usize = 16;

/// The chunks of a pack that are tried for one that no sketch finds. Several workers have
/// written to a pack in turn.
const NEAR: usize = 5;

/// A chunk that is like a new one.
struct Base {
    chunk: Located,
    /// Its pages.
    pages: usize,
    /// The page of the base that each page of the new chunk is, if it has it.
    sources: Vec<Option<u32>>,
    shared: usize,
}

impl Base {
    /// The page at which a new chunk is divided, because only a part of it is like the base:
    /// where the base ends, or else where it begins.
    fn cut(&self, pages: usize, page_size: u32) -> Option<usize> {
        let mut shared = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(page, source)| source.map(|source| (page, source as usize)));
        let (first, first_source) = shared.next()?;
        let (last, last_source) = shared.next_back().unwrap_or((first, first_source));
        let begin = first.saturating_sub(first_source);
        let end = last + self.pages.saturating_sub(last_source);
        // A page of the system is not divided.
        let unit = (page_size as usize / PAGE).max(1);
        let (begin, end) = (begin / unit * unit, end.next_multiple_of(unit));
        let is_like = self.shared * 2 > end.min(pages) - begin;
        match is_like {
            true if end + DIVIDED <= pages => Some(end),
            true if begin >= DIVIDED => Some(begin),
            _ => None,
        }
    }
}

/// The best base so far.
struct Best<'a> {
    pages: &'a [PageDigest],
    base: Option<Base>,
    /// Its place in its pack.
    place: Option<(Arc<Index>, usize)>,
}

impl<'a> Best<'a> {
    fn of(pages: &'a [PageDigest]) -> Self {
        Self {
            pages,
            base: None,
            place: None,
        }
    }

    /// Whether half of the pages are the base's.
    fn is_alike(&self) -> bool {
        let base = self.base.as_ref();
        base.is_some_and(|base| base.shared * 2 > self.pages.len())
    }

    fn consider(&mut self, chunk: Located, index: &Arc<Index>, entry: usize) {
        let digests = &index.entries[entry].digests;
        let sources = sources(self.pages, digests);
        let shared = sources.iter().flatten().count();
        let best = self.base.as_ref().map_or(0, |base| base.shared);
        if shared > best {
            self.base = Some(Base {
                chunk,
                pages: digests.len(),
                sources,
                shared,
            });
            self.place = Some((Arc::clone(index), entry));
        }
    }
}

/// Where a base has pages: at the same place, or at any.
fn sources(pages: &[PageDigest], base: &[[u8; 16]]) -> Vec<Option<u32>> {
    let mut places = HashMap::with_capacity(base.len());
    for (place, digest) in base.iter().enumerate() {
        // Fits: a chunk has at most 256 pages.
        places.entry(digest).or_insert(place as u32);
    }
    let pages = pages.iter().enumerate();
    let source = |(number, digest): (usize, &PageDigest)| {
        let digest = digest.first_chunk()?;
        match base.get(number) {
            Some(same) if same == digest => Some(number as u32),
            _ => places.get(digest).copied(),
        }
    };
    pages.map(source).collect()
}

/// Stores chunks, with buffers for reuse.
pub struct Worker {
    session: Arc<Session>,
    catalogue: Catalogue,
    encoder: Encoder,
    pages: Pages,
    frame: Vec<u8>,
    /// The place of the last base in its pack.
    last: Option<(Arc<Index>, usize)>,
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
            last: None,
        })
    }

    /// Stores the chunks of `bytes`, which begin with the first cut, and returns what they
    /// were. A chunk that is stored already costs no more than its name.
    ///
    /// # Errors
    /// The disk or the quota is full, or the catalogue can't be read.
    pub fn store(&mut self, bytes: &[u8], cuts: &[Cut]) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::with_capacity(cuts.len());
        let mut pages = std::mem::take(&mut self.pages);
        let mut start = 0;
        for cut in cuts {
            let end = start + cut.bytes();
            match cut {
                Cut::Chunk(_) => {
                    pages.set(&bytes[start..end]);
                    self.chunk(&bytes[start..end], &pages.0, &mut parts)?;
                }
                Cut::Zeros(_) => parts.push(Part {
                    name: None,
                    // Fits: a buffer has less than 2^44 bytes.
                    pages: (cut.bytes() / PAGE) as u32,
                }),
            }
            start = end;
        }
        self.pages = pages;
        Ok(parts)
    }

    /// Stores a chunk with these digests, or the parts that it is divided into.
    fn chunk(
        &mut self,
        bytes: &[u8],
        pages: &[PageDigest],
        parts: &mut Vec<Part>,
    ) -> Result<(), Error> {
        let name = Name::of(pages);
        let part = Part {
            name: Some(name),
            // Fits: a chunk has at most a MiB.
            pages: pages.len() as u32,
        };
        let is_known = |session: &Session| {
            let state = session.state();
            state.new.contains_key(&name) || state.used.contains_key(&name)
        };
        if is_known(&self.session) {
            parts.push(part);
            return Ok(());
        }
        if let Some(known) = self.catalogue.chunk(&name)? {
            self.use_known(known)?;
            parts.push(part);
            return Ok(());
        }
        let sketch = Sketch::of(pages);
        let base = match &sketch {
            Some(sketch) => self.base(pages, sketch)?,
            None => None,
        };
        // A page in which a chunk ended has changed, and the next chunk was joined to it.
        if let Some(base) = &base
            && let Some(cut) = base.cut(pages.len(), self.session.options.page_size)
        {
            let (first, rest) = pages.split_at(cut);
            let (first_bytes, rest_bytes) = bytes.split_at(cut * PAGE);
            self.chunk(first_bytes, first, parts)?;
            return self.chunk(rest_bytes, rest, parts);
        }
        match self.session.state().new.entry(name) {
            // Another worker stores it.
            hash_map::Entry::Occupied(_) => {
                parts.push(part);
                return Ok(());
            }
            hash_map::Entry::Vacant(entry) => entry.insert(None),
        };
        self.add(name, bytes, pages, sketch, base)?;
        parts.push(part);
        Ok(())
    }

    /// Compresses a new chunk, and writes it.
    fn add(
        &mut self,
        name: Name,
        bytes: &[u8],
        pages: &[PageDigest],
        sketch: Option<Sketch>,
        base: Option<Base>,
    ) -> Result<(), Error> {
        self.frame.clear();
        let is_patch = match &base {
            Some(base) => self
                .encoder
                .patch(bytes, &base.sources, &mut self.frame)
                .map_err(Error::Encoder)?,
            None => false,
        };
        let base = base.filter(|_| is_patch).map(|base| base.chunk);
        if base.is_none() {
            self.encoder
                .plain(bytes, &mut self.frame)
                .map_err(Error::Encoder)?;
        }
        let mut state = self.session.state();
        let base_name = base.as_ref().map(|base| base.name);
        let (pack, offset) = state.drafts.add(name, base_name, pages, &self.frame)?;
        let number = state.chunks.len() as u32;
        state.chunks.push(NewChunk {
            name,
            pack,
            offset,
            // Fit: a chunk has at most a MiB.
            stored: self.frame.len() as u32,
            pages: pages.len() as u32,
            base: base.as_ref().map(|base| base.number),
            // Only a chunk that is stored whole is a base.
            sketch: sketch.filter(|_| base.is_none()),
        });
        state.new.insert(name, Some(number));
        if let Some(base) = base {
            state.bases.insert(base.number, base.name);
            state.known.entry(base.name).or_insert(base);
        }
        Ok(())
    }

    /// The similar chunk that has the most of these pages. If none has half of them, those
    /// are tried that were stored at and after the last base: memory that changed here and
    /// there is in the order of its last checkpoint, also where its cuts have moved.
    fn base(&mut self, pages: &[PageDigest], sketch: &Sketch) -> Result<Option<Base>, Error> {
        let mut best = Best::of(pages);
        for similar in self.catalogue.similar(sketch)? {
            if let Some((index, entry)) = self.session.bases.find(&similar.chunk) {
                best.consider(similar.chunk, &index, entry);
            }
        }
        if let Some((index, last)) = self.last.clone().filter(|_| !best.is_alike()) {
            let near = index.entries.iter().enumerate().skip(last).take(NEAR);
            for (entry, found) in near.filter(|(_, found)| found.base.is_none()) {
                // A collection may have removed it.
                if let Some(chunk) = self.catalogue.chunk(&found.name)? {
                    best.consider(chunk, &index, entry);
                }
            }
        }
        self.last = best.place.or(self.last.take());
        Ok(best.base)
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
