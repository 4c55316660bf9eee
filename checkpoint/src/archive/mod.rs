//! A checkpoint in one file: a plain tar of a checkpoint's directory.
//!
//! ```text
//! ┌────────┬───────────────────────┬────────┬───────────────┬───┬───────┬──────────┐
//! │ header │ pages-1.img.zst       │ header │ core-7.img    │ … │header │ manifest │ 2 zero
//! │ 512 B  │ frames, trailer, pad  │        │ bytes, pad    │   │       │          │ blocks
//! └────────┴───────────────────────┴────────┴───────────────┴───┴───────┴──────────┘
//!      ▲ patched when the size is known
//! ```
//!
//! `tar -x` unpacks it into the directory that docs/format.md describes. A restore reads
//! it in place: [`Index`] maps each name to a range of the one open file, and page files
//! are read frame by frame from their range.
//!
//! The headers are POSIX ustar ([`Header`]), all of flat regular files. A size above the
//! octal field's 8 GiB is in base 256, as GNU tar, bsdtar and busybox have it. An archive
//! is untrusted: anything but such entries is refused, so a name can't lead out of the
//! archive, and no entry hides another. [`crate::capture`] writes archives while CRIU
//! dumps, and [`Writer`] writes those of what is stored already.
//!
//! Tars of other programs are read in one pass ([`Foreign`]), to make archives of them.

mod error;
mod foreign;
mod header;
mod index;
mod pax;
mod writer;

pub use error::Error;
pub use foreign::{Fault, Foreign, ForeignEntry};
pub(crate) use header::Header;
pub use index::Index;
pub(crate) use writer::Writer;

/// The unit of a tar: headers have this length, and contents are padded to it.
pub(crate) const BLOCK: u64 = 512;

/// The number of bytes that pad a content of this length.
pub(crate) fn padding(length: u64) -> u64 {
    length.next_multiple_of(BLOCK) - length
}
