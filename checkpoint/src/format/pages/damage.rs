//! Errors of reading a page file.

use std::io;
use std::path::PathBuf;

use cedana_store::{list, pack};

use super::table::Malformed;

/// The reason that a page file can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// A system call failed.
    #[error("the checkpoint's {} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Its trailer is invalid or does not match the file.
    #[error("the checkpoint's {} is damaged or truncated: {why}; take the checkpoint again or restore another", file.display())]
    Trailer {
        /// The file.
        file: PathBuf,
        /// The fault of the trailer.
        why: Malformed,
    },
    /// Its trailer has another digest than the manifest.
    #[error("the checkpoint's {} does not match the manifest: it is damaged or of another checkpoint; take the checkpoint again or restore another", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A frame has another digest than the trailer.
    #[error("the checkpoint's {} is damaged in frame {frame} (bytes {start} to {end} of the file); take the checkpoint again or restore another", file.display())]
    Frame {
        /// The file.
        file: PathBuf,
        /// The frame's number, from 0.
        frame: usize,
        /// The offset of the frame's stored bytes.
        start: u64,
        /// The offset of their end.
        end: u64,
    },
    /// A list of chunks is none.
    #[error("the checkpoint's {} is damaged: {why}; take the checkpoint again or restore another", file.display())]
    List {
        /// The file.
        file: PathBuf,
        /// The fault of the list.
        why: list::Malformed,
    },
    /// The store that has the memory does not exist.
    #[error("the checkpoint's memory is in the store {}, which does not exist. If the checkpoint was taken on another node, restore it there, or make it whole there with cedana checkpoint export; if the store was moved, set store.path", path.display())]
    NoStore {
        /// The store.
        path: PathBuf,
    },
    /// The store can't be used, or lacks a chunk.
    #[error("the memory of the checkpoint's {} cannot be opened: {source}", file.display())]
    Store {
        /// The list.
        file: PathBuf,
        /// The reason.
        source: Box<cedana_store::Error>,
    },
    /// A chunk can't be read, or is damaged.
    #[error("the memory of the checkpoint's {} cannot be read from byte {start} to {end}: {source}; run cedana store check, then take the checkpoint again or restore another", file.display())]
    Chunk {
        /// The list.
        file: PathBuf,
        /// The offset of the chunk in the memory.
        start: u64,
        /// The offset of its end.
        end: u64,
        /// The fault.
        source: Box<pack::Fault>,
    },
}
