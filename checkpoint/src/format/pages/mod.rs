//! Page files: a process's memory, in compressed frames for random and parallel reads.
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
//! This is zstd's seekable format (contrib/seekable_format in zstd's source): every
//! frame decodes on its own, and the seek table at the end has the stored and the raw
//! length of each. `zstd -d` skips the trailer and writes the file that CRIU wrote. All
//! frames but the last hold the same number of raw bytes, so a division finds the frame
//! of an offset.
//!
//! The digests frame is an extension. zstd's own content checksums would not do: they
//! are compared after decoding, and the manifest could not cover them. It holds
//!
//! ```text
//! u32 0x184D2A5C   u32 length of what follows
//! [u8; 8] "cedana\0\x01"   u32 raw bytes per frame   u32 zero
//! [u8; 16] per frame: the beginning of the BLAKE3 of its stored bytes
//! ```
//!
//! and is the last entry in the seek table, with no raw bytes. Numbers are
//! little-endian. The manifest holds the BLAKE3 of the trailer, and the trailer the
//! digest and the position of each frame, so a frame can be verified without the rest
//! of the file.
//!
//! Without compression a page file stays as CRIU wrote it, `pages-N.img`. Its trailer is
//! a separate file, `pages-N.img.table`, with equal stored and raw lengths.
//!
//! Memory in the node's store has a list of chunks instead, `pages-N.img.chunks`
//! ([`cedana_store::list`]). To a [`Reader`] each of its windows, a chunk or zeros, is a
//! frame: they differ in length, and a binary search finds the one of an offset.
//!
//! An [`Encoder`] per thread encodes frames, a [`Writer`] writes them to a file, and a
//! [`Reader`] returns raw bytes of a [`Stored`] file, or of the chunks of its list, which a
//! [`ChunkStore`] opens. `digest` compares a frame's digest, `table` holds the trailer.

pub(crate) mod chunks;
mod damage;
mod digest;
mod each_frame;
mod frame;
mod reader;
mod stored;
mod table;
mod trailer;
mod writer;

pub use chunks::{ChunkStore, read_list};
pub use damage::Damage;
pub use digest::Digest;
pub use frame::{Compression, FRAME, MAX_FRAME};
pub use reader::{Decoder, Reader};
pub use stored::Stored;
pub(super) use table::MAX_FRAMES;
pub use table::{Malformed, Table};
pub use writer::{Encoder, Summary, TableBuilder, Writer};
