//! The reasons not to read an archive.

use std::io;

/// An archive that is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It ends within an entry, or has no end.
    #[error("it is truncated (at byte {at}); copy it again, or restore another")]
    Truncated {
        /// The offset of the header.
        at: u64,
    },
    /// A header that this program does not write.
    #[error(
        "it has an entry that no checkpoint has (at byte {at}: {what}); only an archive that cedana wrote, or `tar --format=ustar -c` of plain files, is restored"
    )]
    Entry {
        /// The offset of the header.
        at: u64,
        /// The reason.
        what: &'static str,
    },
    /// Two entries of one name.
    #[error("it has the entry {name:?} twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// Data after the end.
    #[error("it has data after its end (at byte {at})")]
    Trailing {
        /// The offset of the data.
        at: u64,
    },
    /// More entries than a checkpoint has.
    #[error("it has more entries than any checkpoint")]
    TooMany,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Read(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
