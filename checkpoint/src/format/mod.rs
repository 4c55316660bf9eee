//! Cedana's format of a stored checkpoint.
//!
//! ```text
//! CRIU's images ─► publish  written beside an older checkpoint, synced, renamed
//!                  manifest names, sizes and digests of all files; the machine
//!                  pages    memory, in frames of zstd
//!                  streams  the images of TCP connections, in one archive
//! stored files ─► contents  the directory as CRIU wrote it, each file verified
//!                  │ reading:  its images, for the readers of this crate
//!                  │ listed:   the same without verification
//!                  │ reserved: reserved address space, marked for the restore
//!                  └► unpack  writes a stock checkpoint
//! ```
//!
//! [`cpu_compat`] checks whether this machine can restore a checkpoint from another one.

pub mod contents;
mod cpu_compat;
mod error;
mod listed;
pub mod manifest;
pub mod pages;
pub mod publish;
mod reading;
mod reserved;
pub mod streams;
pub mod unpack;

pub use cpu_compat::Unfit;
pub use error::Error;
pub(crate) use listed::Listed;
pub use reserved::reserve;
pub use unpack::unpack;
