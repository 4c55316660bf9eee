//! The files of a checkpoint, as Cedana stores them.
//!
//! ```text
//! CRIU's images ─► publish  written beside an older checkpoint, synced, renamed
//!                  manifest names, sizes and digests of all files; the machine
//!                  pages    memory, in frames of zstd
//! stored files ─► contents  the directory as CRIU wrote it, each file verified
//!                  │ reserved: address space without memory, changed for the restore
//!                  └► unpack  written out, as a stock checkpoint
//! ```
//!
//! [`cpu_compat`] says whether this machine can run what another one dumped.

pub mod contents;
mod cpu_compat;
mod error;
pub mod manifest;
pub mod pages;
pub mod publish;
mod reserved;
pub mod unpack;

pub use cpu_compat::Unfit;
pub use error::Error;
pub use reserved::reserve;
pub use unpack::unpack;
