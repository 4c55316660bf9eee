//! The end of a pack: names, lengths and page digests of its chunks.
//!
//! ```text
//! u32 0x184D2A5C   u32 length of what follows
//!   [u8; 8] "cedpack\x01"   u32 chunks   u32 0
//!   for each chunk: [u8; 32] name   [u8; 32] base, or zeros   u32 stored bytes   u32 pages
//!                   [u8; 16] for each page, of a chunk without a base: the beginning of
//!                            the BLAKE3 of the page
//! u32 0x184D2A5E   the seek table: stored and raw length of each frame, and of the index
//! ```
//!
//! The digests tell which pages another chunk shares with this one. An index is checked
//! like any outside input, because a disk may damage it.

use super::stored_bound;
use crate::chunk::{MAX_PAGES, Name, PAGE};
use crate::list::{Bytes, Malformed};
use crate::place::Object;

const INDEX_MAGIC: u32 = 0x184D_2A5C;
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;
const TAG: [u8; 8] = *b"cedpack\x01";

/// Bytes of a skippable frame's header, of the index's own head, of an entry without its
/// digests, of an entry of the seek table, and of the seek table's end.
const HEADER: usize = 8;
const HEAD: usize = 16;
const ENTRY: usize = 72;
const SEEK: usize = 8;
const FOOTER: usize = 9;

/// The most chunks of a pack: a frame has a few bytes at least. It limits a reader's memory.
const MAX_CHUNKS: u32 = 1 << 22;

/// A chunk of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// The chunk that it is a patch on.
    pub base: Option<Name>,
    /// The offset of its frame.
    pub offset: u64,
    /// The bytes of its frame.
    pub stored: u32,
    /// Its pages.
    pub pages: u32,
    /// The beginnings of its pages' digests, without a base.
    pub digests: Box<[[u8; 16]]>,
}

/// What a pack holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Its chunks, by offset.
    pub entries: Vec<Entry>,
}

impl Index {
    /// The bytes of the end of the pack.
    pub(super) fn render(&self) -> Vec<u8> {
        let digests: usize = self.entries.iter().map(|entry| entry.digests.len()).sum();
        let index = HEAD + self.entries.len() * ENTRY + digests * 16;
        let seek = (self.entries.len() + 1) * SEEK + FOOTER;
        // The casts fit: a pack is limited.
        let word = |number: usize| (number as u32).to_le_bytes();
        let mut bytes = Vec::with_capacity(2 * HEADER + index + seek);
        bytes.extend(INDEX_MAGIC.to_le_bytes());
        bytes.extend(word(index));
        bytes.extend(TAG);
        bytes.extend(word(self.entries.len()));
        bytes.extend([0; 4]);
        for entry in &self.entries {
            bytes.extend(entry.name.0);
            bytes.extend(entry.base.map_or([0; 32], |base| base.0));
            bytes.extend(entry.stored.to_le_bytes());
            bytes.extend(entry.pages.to_le_bytes());
            bytes.extend(entry.digests.as_flattened());
        }
        bytes.extend(SEEK_TABLE_MAGIC.to_le_bytes());
        bytes.extend(word(seek));
        for entry in &self.entries {
            bytes.extend(entry.stored.to_le_bytes());
            // A patch decodes to another length than its chunk's, which only zstd knows:
            // tools that use it skip such a frame.
            let raw = match entry.base {
                None => entry.pages as usize * PAGE,
                Some(_) => 0,
            };
            bytes.extend(word(raw));
        }
        bytes.extend(word(HEADER + index));
        bytes.extend(word(0));
        bytes.extend(word(self.entries.len() + 1));
        bytes.push(0);
        bytes.extend(FOOTER_MAGIC.to_le_bytes());
        bytes
    }

    /// Reads the index of a pack.
    ///
    /// # Errors
    /// The pack can't be read, or its end is damaged.
    pub fn read(pack: &dyn Object) -> std::io::Result<Self> {
        let invalid = |fault: Malformed| std::io::Error::other(fault.to_string());
        let length = pack.length()?;
        let footer: [u8; FOOTER + SEEK] = at_end(pack, length)?;
        let (last, footer) = footer.split_at(SEEK);
        let count = Self::count(footer).map_err(invalid)?;
        let index = last
            .first_chunk()
            .map_or(0, |stored| u32::from_le_bytes(*stored));
        let end = u64::from(index) + (HEADER + (count as usize + 1) * SEEK + FOOTER) as u64;
        let most = HEADER + HEAD + count as usize * (ENTRY + MAX_PAGES * 16);
        if end > length || index as usize > most {
            return Err(invalid(Malformed("its seek table does not fit its length")));
        }
        let mut bytes = vec![0; end as usize];
        pack.read_exact_at(&mut bytes, length - end)?;
        let index = Self::parse(&bytes).map_err(invalid)?;
        match index.stored_bytes() == length - end {
            true => Ok(index),
            false => Err(invalid(Malformed("its frames do not fit its length"))),
        }
    }

    /// The bytes of all frames.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let last = self.entries.last();
        last.map_or(0, |last| last.offset + u64::from(last.stored))
    }

    /// The bytes that the end of a pack has for a chunk, with or without digests.
    pub(crate) fn bytes_of_entry(pages: u32, has_digests: bool) -> u64 {
        let digests = if has_digests { pages as usize * 16 } else { 0 };
        (ENTRY + SEEK + digests) as u64
    }

    fn count(footer: &[u8]) -> Result<u32, Malformed> {
        let mut rest = Bytes(footer);
        let count = rest.word()?;
        if rest.take::<1>()? != [0] || rest.word()? != FOOTER_MAGIC {
            return Err(Malformed("it does not end with a seek table"));
        }
        match count {
            1..=MAX_CHUNKS => Ok(count - 1),
            _ => Err(Malformed("its seek table has an impossible length")),
        }
    }

    /// Parses the end of a pack.
    ///
    /// # Errors
    /// It is invalid or inconsistent.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let footer = bytes
            .len()
            .checked_sub(FOOTER)
            .and_then(|at| bytes.get(at..))
            .ok_or(Malformed("it is truncated"))?;
        let count = Self::count(footer)?;
        let mut rest = Bytes(bytes);
        let wrong = Malformed("it has no index, or one of an unknown version");
        if rest.word()? != INDEX_MAGIC {
            return Err(wrong);
        }
        let length = rest.word()? as usize;
        let seek = (count as usize + 1) * SEEK + FOOTER;
        if HEADER + length + HEADER + seek != bytes.len() {
            return Err(Malformed("its index has another length than it says"));
        }
        if rest.take::<8>()? != TAG || rest.word()? != count || rest.word()? != 0 {
            return Err(wrong);
        }
        // An entry has this many bytes at least.
        let mut entries = Vec::with_capacity((count as usize).min(length / ENTRY));
        let mut offset = 0;
        for _ in 0..count {
            let entry = Entry::parse(&mut rest, offset)?;
            offset += u64::from(entry.stored);
            entries.push(entry);
        }
        if rest.0.len() != HEADER + seek {
            return Err(Malformed("its index has another length than it says"));
        }
        if rest.word()? != SEEK_TABLE_MAGIC || rest.word()? as usize != seek {
            return Err(Malformed("it has no seek table"));
        }
        for entry in &entries {
            if rest.word()? != entry.stored {
                return Err(Malformed("its seek table differs from its index"));
            }
            rest.word()?;
        }
        Ok(Self { entries })
    }
}

impl Entry {
    fn parse(rest: &mut Bytes<'_>, offset: u64) -> Result<Self, Malformed> {
        let name = Name(rest.take()?);
        let base: [u8; 32] = rest.take()?;
        let base = (base != [0; 32]).then_some(Name(base));
        let (stored, pages) = (rest.word()?, rest.word()?);
        if pages == 0 || pages as usize > MAX_PAGES {
            return Err(Malformed("one of its chunks has an impossible size"));
        }
        if stored == 0 || stored as usize > stored_bound() {
            return Err(Malformed("one of its frames has an impossible size"));
        }
        let digests = match base {
            Some(_) => 0,
            None => pages,
        };
        let digests = (0..digests).map(|_| rest.take());
        Ok(Self {
            name,
            base,
            offset,
            stored,
            pages,
            digests: digests.collect::<Result<_, _>>()?,
        })
    }
}

fn at_end<const N: usize>(pack: &dyn Object, length: u64) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let at = length
        .checked_sub(N as u64)
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    pack.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
