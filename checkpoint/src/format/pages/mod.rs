//! Page files: a process's memory, compressed so that any part of it can be
//! read alone, by any number of threads.
//!
//! ```text
//! pages-N.img.zst
//!   ┌─────────────┬─────────────┬───┬──────────────┬──────────────┬────────────┐
//!   │ zstd frame  │ zstd frame  │ … │ zstd frame   │ digests      │ seek table │
//!   │ FRAME bytes │ FRAME bytes │   │ ≤ FRAME      │ (skippable)  │ (skippable)│
//!   └─────────────┴─────────────┴───┴──────────────┴──────────────┴────────────┘
//!                                                  └───────── trailer ─────────┘
//! ```
//!
//! This is zstd's seekable format (contrib/seekable_format in zstd's source):
//! every frame decodes on its own, and the seek table at the end says how long
//! each is, stored and raw. `zstd -d` skips the trailer and gives back the file
//! that CRIU wrote. All frames but the last hold the same number of raw bytes,
//! so the frame of an offset is found by a division.
//!
//! The digests frame is ours: what stands for the frames' content checksums,
//! which zstd could add, but which would be looked at after decoding and can't
//! be told from outside. It holds
//!
//! ```text
//! u32 0x184D2A5C   u32 length of what follows
//! [u8; 8] "cedana\0\x01"   u32 raw bytes per frame   u32 zero
//! [u8; 16] per frame: the beginning of the BLAKE3 of its stored bytes
//! ```
//!
//! and is in the seek table as the last entry, of no raw bytes. Numbers are
//! little-endian. The manifest holds the BLAKE3 of the trailer, and the trailer
//! a digest of each frame and its place: so a frame that is read is checked with
//! a hash of that frame alone.
//!
//! Without compression a page file stays as CRIU wrote it, `pages-N.img`, and
//! its trailer is a file beside it, `pages-N.img.table`, whose frames are as
//! long stored as raw.
//!
//! [`Encoder`]s (one per thread) make frames, a [`Writer`] puts them into a
//! file, a [`Reader`] gives raw bytes back. `digest` compares a frame's digest,
//! `table` holds the trailer.

mod digest;
mod reader;
mod table;
mod writer;

pub use digest::Digest;
pub(crate) use reader::open_regular;
pub use reader::{Damage, Decoder, Reader};
pub use table::{Malformed, Table};
pub use writer::{Encoder, Summary, TableBuilder, Writer};

/// Raw bytes per frame, if nothing else is chosen. What a random read must
/// decode at least, and what zstd can look back upon.
pub const FRAME: u32 = 256 << 10;

/// The most raw bytes per frame that a reader accepts: it has to hold several in
/// memory, and the file says how many there are.
pub const MAX_FRAME: u32 = 16 << 20;

/// How frames are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// As zstd frames.
    Zstd {
        /// zstd's level; a negative one is faster and compresses less.
        level: i32,
    },
}
