//! The list of a page file's chunks, which a checkpoint's directory holds in its place.
//!
//! ```text
//! pages-N.img.chunks
//!   [u8; 8] "cedlist\x01"   u32 page size   u32 packs   u32 chunks   u32 runs   u64 raw bytes
//!   packs  ×  [u8; 16] ID
//!   chunks ×  [u8; 32] name   u32 pack   u32 base   u64 offset   u32 stored bytes   u32 pages
//!   runs   ×  u32 chunk   u32 pages
//! ```
//!
//! Numbers are little-endian, pages have 4096 bytes. A run is a chunk, or zeros
//! ([`ZEROS`]). A base is another chunk of the list, of which this one has most pages.
//! The place of a chunk (pack, offset, length) is where it was when the list was written;
//! collection may move it, and the catalogue knows where to.
//!
//! A list is untrusted input: its length is known before it is read, and all numbers are
//! checked before they are used. A wrong place can only lead to bytes that have another
//! name.

use std::fmt;

use crate::chunk::{MAX, MAX_PAGES, Name, PAGE};
use crate::pack::{PackId, stored_bound};

/// What the names of lists end with.
pub const SUFFIX: &str = ".chunks";

const MAGIC: [u8; 8] = *b"cedlist\x01";
const HEAD: usize = 32;
const PACK: usize = 16;
const CHUNK: usize = 56;
const RUN: usize = 8;

/// The run of zeros, and the base of a chunk that has none.
const NONE: u32 = u32::MAX;

/// The most memory of one list, which limits a reader: 4 TiB.
pub const MAX_RAW: u64 = 4 << 40;

/// The most bytes of a list: [`MAX_RAW`] in chunks of 64 KiB.
pub const MAX_BYTES: u64 = (MAX_RAW / (64 << 10)) * (CHUNK + RUN) as u64;

/// Where a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack's number in the list.
    pub pack: u32,
    /// The offset of its frame in the pack.
    pub offset: u64,
    /// The bytes of its frame.
    pub stored: u32,
}

/// A chunk of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its name.
    pub name: Name,
    /// Where it was stored.
    pub place: Place,
    /// The number of its pages.
    pub pages: u32,
    /// The chunk that it is a patch on, by its number in the list.
    pub base: Option<u32>,
}

/// A part of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The chunk's number in the list; `None` for zeros.
    pub chunk: Option<u32>,
    /// Its pages.
    pub pages: u32,
}

/// The list; see the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The size of the machine's pages: no chunk ends within one.
    pub page_size: u32,
    /// The packs that the chunks are in.
    pub packs: Vec<PackId>,
    /// The chunks, each once, and their bases.
    pub chunks: Vec<Chunk>,
    /// The memory, from its beginning to its end.
    pub runs: Vec<Run>,
}

/// The reason that bytes are no valid list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(crate) &'static str);

impl List {
    /// The bytes of memory.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        let pages = self.runs.iter().map(|run| u64::from(run.pages));
        pages.sum::<u64>() * PAGE as u64
    }

    /// The bytes that its chunks have in the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let chunks = self.chunks.iter();
        chunks.map(|chunk| u64::from(chunk.place.stored)).sum()
    }

    /// The length of the rendered list.
    #[must_use]
    pub fn render_length(&self) -> u64 {
        let parts = self.packs.len() * PACK + self.chunks.len() * CHUNK + self.runs.len() * RUN;
        (HEAD + parts) as u64
    }

    /// The bytes of the list.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.render_length() as usize);
        // The casts fit: a list has less than 2^32 of each.
        let word = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_le_bytes());
        bytes.extend(MAGIC);
        word(&mut bytes, self.page_size);
        word(&mut bytes, self.packs.len() as u32);
        word(&mut bytes, self.chunks.len() as u32);
        word(&mut bytes, self.runs.len() as u32);
        bytes.extend(self.raw_bytes().to_le_bytes());
        for pack in &self.packs {
            bytes.extend(pack.0);
        }
        for chunk in &self.chunks {
            bytes.extend(chunk.name.0);
            word(&mut bytes, chunk.place.pack);
            word(&mut bytes, chunk.base.unwrap_or(NONE));
            bytes.extend(chunk.place.offset.to_le_bytes());
            word(&mut bytes, chunk.place.stored);
            word(&mut bytes, chunk.pages);
        }
        for run in &self.runs {
            word(&mut bytes, run.chunk.unwrap_or(NONE));
            word(&mut bytes, run.pages);
        }
        bytes
    }

    /// Parses a list.
    ///
    /// # Errors
    /// It is invalid or inconsistent.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Bytes(bytes);
        if rest.take::<8>()? != MAGIC {
            return Err(Malformed("it is no list of chunks, or a newer one"));
        }
        let page_size = rest.word()?;
        if !page_size.is_multiple_of(PAGE as u32) || page_size == 0 || page_size as usize > MAX {
            return Err(Malformed("it has an impossible page size"));
        }
        let [packs, chunks, runs] = [rest.word()?, rest.word()?, rest.word()?];
        let raw_bytes = rest.long()?;
        let length = [(packs, PACK), (chunks, CHUNK), (runs, RUN)]
            .iter()
            .fold(HEAD as u64, |sum, (count, size)| {
                sum + u64::from(*count) * *size as u64
            });
        if length != bytes.len() as u64 {
            return Err(Malformed("its length is not what it says"));
        }
        let packs = (0..packs)
            .map(|_| rest.take().map(PackId))
            .collect::<Result<Vec<_>, _>>()?;
        let chunks = (0..chunks)
            .map(|_| Chunk::parse(&mut rest, packs.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let based = |chunk: &Chunk| match chunk.base {
            None => true,
            Some(base) => chunks
                .get(base as usize)
                .is_some_and(|base| base.base.is_none()),
        };
        if !chunks.iter().all(based) {
            return Err(Malformed("one of its chunks has an impossible base"));
        }
        let runs = (0..runs)
            .map(|_| Run::parse(&mut rest, &chunks))
            .collect::<Result<Vec<_>, _>>()?;
        let list = Self {
            page_size,
            packs,
            chunks,
            runs,
        };
        let aligned = |run: &Run| (run.pages as usize * PAGE).is_multiple_of(page_size as usize);
        let (last, others) = match list.runs.split_last() {
            Some((last, others)) => (Some(last), others),
            None => (None, &[][..]),
        };
        if !others.iter().chain(last).all(aligned) {
            return Err(Malformed("one of its runs ends within a page"));
        }
        if raw_bytes > MAX_RAW || list.raw_bytes() != raw_bytes {
            return Err(Malformed("its runs do not have the length that it says"));
        }
        Ok(list)
    }
}

impl Chunk {
    fn parse(rest: &mut Bytes<'_>, packs: usize) -> Result<Self, Malformed> {
        let name = Name(rest.take()?);
        let (pack, base) = (rest.word()?, rest.word()?);
        let (offset, stored, pages) = (rest.long()?, rest.word()?, rest.word()?);
        if pack as usize >= packs {
            return Err(Malformed("one of its chunks is in an unknown pack"));
        }
        if pages == 0 || pages as usize > MAX_PAGES {
            return Err(Malformed("one of its chunks has an impossible size"));
        }
        if stored == 0
            || stored as usize > stored_bound()
            || offset.checked_add(stored.into()).is_none()
        {
            return Err(Malformed("one of its chunks has an impossible place"));
        }
        Ok(Self {
            name,
            place: Place {
                pack,
                offset,
                stored,
            },
            pages,
            base: (base != NONE).then_some(base),
        })
    }
}

impl Run {
    fn parse(rest: &mut Bytes<'_>, chunks: &[Chunk]) -> Result<Self, Malformed> {
        let (chunk, pages) = (rest.word()?, rest.word()?);
        let chunk = (chunk != NONE).then_some(chunk);
        if let Some(number) = chunk {
            match chunks.get(number as usize) {
                Some(chunk) if chunk.pages == pages => {}
                _ => return Err(Malformed("one of its runs is of an unknown chunk")),
            }
        }
        if pages == 0 {
            return Err(Malformed("one of its runs is empty"));
        }
        Ok(Self { chunk, pages })
    }
}

/// A reader of bytes from the front.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Bytes<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("it is truncated"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn word(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} chunks in {} packs, {} bytes of memory",
            self.chunks.len(),
            self.packs.len(),
            self.raw_bytes()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list() -> List {
        let chunk = |name, pages, base| Chunk {
            name: Name([name; 32]),
            place: Place {
                pack: 1,
                offset: 100,
                stored: 5000,
            },
            pages,
            base,
        };
        List {
            page_size: 4096,
            packs: vec![PackId([1; 16]), PackId([2; 16])],
            chunks: vec![chunk(1, 64, None), chunk(2, 70, Some(0))],
            runs: vec![
                Run {
                    chunk: Some(1),
                    pages: 70,
                },
                Run {
                    chunk: None,
                    pages: 1000,
                },
                Run {
                    chunk: Some(0),
                    pages: 64,
                },
            ],
        }
    }

    #[test]
    fn a_rendered_list_is_parsed() {
        let list = list();
        let bytes = list.render();
        assert_eq!(List::parse(&bytes).as_ref(), Ok(&list));
        assert_eq!(list.raw_bytes(), 1134 * 4096);
        for end in 0..bytes.len() {
            assert!(List::parse(&bytes[..end]).is_err(), "cut to {end}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let refused = |change: fn(&mut List)| {
            let mut list = list();
            change(&mut list);
            List::parse(&list.render()).expect_err("refused").0
        };
        assert!(refused(|list| list.chunks[0].base = Some(1)).contains("base"));
        assert!(refused(|list| list.chunks[1].base = Some(7)).contains("base"));
        assert!(refused(|list| list.chunks[1].base = Some(1)).contains("base"));
        assert!(refused(|list| list.chunks[1].place.pack = 2).contains("pack"));
        assert!(refused(|list| list.chunks[1].pages = 257).contains("size"));
        assert!(refused(|list| list.chunks[1].place.stored = 0).contains("place"));
        assert!(refused(|list| list.runs[0].pages = 69).contains("unknown chunk"));
        assert!(refused(|list| list.runs[1].pages = u32::MAX).contains("length"));
        assert!(refused(|list| list.page_size = 5).contains("page size"));
        assert!(refused(|list| list.page_size = 65536).contains("within a page"));
    }

    proptest! {
        #[test]
        fn no_content_panics(at in 0usize..200, value: u8, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = List::parse(&bytes);
            let mut changed = list().render();
            if let Some(byte) = changed.get_mut(at) {
                *byte = value;
            }
            let _ = List::parse(&changed);
        }
    }
}
