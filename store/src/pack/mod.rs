//! Packs: files of compressed chunks, which never change.
//!
//! ```text
//! ID.pack
//!   ┌────────────┬────────────┬───┬────────────┬───────────────┬────────────┐
//!   │ zstd frame │ zstd frame │ … │ zstd frame │ index         │ seek table │
//!   │ a chunk    │ a chunk    │   │ a chunk    │ (skippable)   │ (skippable)│
//!   └────────────┴────────────┴───┴────────────┴───────────────┴────────────┘
//! ```
//!
//! This is zstd's seekable format (contrib/seekable_format in zstd's source), as in the
//! page files of a checkpoint. The index has the names of the chunks, so that a catalogue
//! can be made again from the packs alone ([`Index`]). A frame holds a chunk's pages, or
//! is a patch on another chunk ([`encode`]). A frame needs no digest: what it decodes to
//! must have the chunk's name.

mod decode;
mod encode;
mod index;
mod writer;

use std::fmt;
use std::str::FromStr;

pub use decode::{Decoder, Fault, Frame};
pub use encode::Encoder;
pub use index::{Entry, Index};
pub use writer::{FileSink, PackWriter, Sink};

use crate::chunk::MAX;

/// Bytes after which a pack is complete. Collection removes and writes again whole packs;
/// a restore opens each of a checkpoint's.
pub const FULL: u64 = 256 << 20;

/// The name of a pack: random, so that those of two stores differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub [u8; 16]);

/// What the files' names end with.
const SUFFIX: &str = ".pack";

/// The most bytes of a frame: zstd stores incompressible bytes with headers, and a patch
/// has four more for each page.
pub(crate) fn stored_bound() -> usize {
    zstd::zstd_safe::compress_bound(MAX + MAX / 1024)
}

impl PackId {
    /// A new one.
    ///
    /// # Errors
    /// /dev/urandom can't be read.
    pub fn random() -> std::io::Result<Self> {
        use std::io::Read;
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The name of its file.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{self}{SUFFIX}")
    }

    /// The pack of a file's name.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        name.strip_suffix(SUFFIX)?.parse().ok()
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PackId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32
            || !text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| ())?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests;
