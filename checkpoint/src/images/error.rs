//! Why a checkpoint's images can't be used.

use std::io;
use std::path::PathBuf;

use super::frame::Fault;

/// The reason that a directory is not a complete checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such directory, or it can't be read.
    #[error("the checkpoint {} cannot be read: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory without an inventory.
    #[error("{} is not a checkpoint: it has no inventory.img; the checkpoint did not finish, or the path is wrong", dir.display())]
    NoInventory {
        /// The directory.
        dir: PathBuf,
    },
    /// One of its files can't be read.
    #[error("the checkpoint's {} cannot be read: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// One of its files is not a CRIU image.
    #[error("the checkpoint's {} is not a CRIU image: it was overwritten or damaged; take the checkpoint again or restore another", file.display())]
    NotAnImage {
        /// The file.
        file: PathBuf,
    },
    /// One of its files has a record that this version does not know.
    #[error("the checkpoint's {} has a record that this version does not understand; a newer cedana-runc or CRIU may have written it", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
    /// One of its files has more records than the reader accepts.
    #[error("the checkpoint's {} has more entries than any container: it was not written by CRIU", file.display())]
    TooMany {
        /// The file.
        file: PathBuf,
    },
    /// One of its files ends too early.
    #[error("the checkpoint's {} is truncated: the copy or the disk was cut short; take the checkpoint again or restore another", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
    },
}

pub(crate) fn name(fault: Fault, file: PathBuf) -> Error {
    match fault {
        Fault::Read(source) => Error::File { file, source },
        Fault::Malformed => Error::Unknown { file },
        Fault::TooMany => Error::TooMany { file },
        Fault::NotAnImage => Error::NotAnImage { file },
        Fault::Truncated => Error::Truncated { file },
    }
}
