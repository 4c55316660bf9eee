//! Chunks: memory, cut where its content says so, and named by what it holds.
//!
//! ```text
//! pages-N.img  │ page │ page │ page │ zero │ zero │ … │ page │ page │
//!              └───── chunk ─────┘ └──── zeros ────┘ └─ chunk ─ …
//! ```
//!
//! A cut depends on the pages since the last one only ([`Cutter`]). A page more or less
//! moves the next cut, and the chunks after it are the same again. A chunk's [`Name`] is
//! the BLAKE3 of its pages' digests, so one pass over memory finds both the chunks that
//! are stored already, and the pages that a similar chunk has ([`Sketch`]).

mod cutter;
mod name;
mod sketch;

pub(crate) use cutter::is_zero;
pub use cutter::{Cut, Cutter};
pub use name::{Name, PageDigest, Pages};
pub use sketch::Sketch;

/// The bytes of a page, for digests. A page of the system is a multiple of it.
pub const PAGE: usize = 4096;

/// The most bytes of a chunk: it bounds a reader's buffer.
pub const MAX: usize = 1 << 20;

/// The most pages of a chunk.
pub const MAX_PAGES: usize = MAX / PAGE;
