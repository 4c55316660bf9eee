//! Errors of reading a page file.

use std::io;
use std::path::PathBuf;

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
}
