//! Errors of reading the layout.

use std::path::PathBuf;

use crate::format;
use crate::images::Error;

/// The reason that this version can't restore a checkpoint lazily. CRIU can restore it
/// eagerly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotLazy {
    /// An image that this version does not understand.
    #[error("{} says something that this version does not understand", image.display())]
    Unknown {
        /// The image.
        image: PathBuf,
    },
    /// An image that can't be read.
    #[error(transparent)]
    Unreadable(format::Error),
}

impl From<format::Error> for NotLazy {
    fn from(error: format::Error) -> Self {
        match error {
            format::Error::Images(error) => error.into(),
            error => Self::Unreadable(error),
        }
    }
}

impl From<Error> for NotLazy {
    fn from(error: Error) -> Self {
        match error {
            Error::Unknown { file } | Error::TooMany { file } => Self::Unknown { image: file },
            error => Self::Unreadable(error.into()),
        }
    }
}
