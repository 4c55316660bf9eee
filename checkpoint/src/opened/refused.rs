//! The reasons not to read an entry of a checkpoint's directory.

use std::io;
use std::path::PathBuf;

/// An entry that is not read, because it may lead out of the checkpoint, or block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A symbolic link.
    #[error(
        "it is a symbolic link, and links in a checkpoint are not followed; put the file itself in its place"
    )]
    Link,
    /// Neither a regular file nor a link.
    #[error("it is not a regular file")]
    NotRegular,
    /// A file with several names.
    #[error(
        "it has {0} hard links, so it can be changed or belong elsewhere; make the file a copy of its own (cp --reflink=auto)"
    )]
    HardLinks(u64),
    /// A file or directory of a third user.
    #[error(
        "it belongs to user {0}, and not to root or the owner of the checkpoint; copy the checkpoint as root, or change the owner (chown) if you trust its content"
    )]
    Owner(u32),
    /// Not a directory, or a link to one.
    #[error("it is not a directory, or it is a link to one")]
    NoDirectory,
    /// A parent of an archive.
    #[error("an archive is a checkpoint by itself, and this one names an earlier checkpoint")]
    Alone,
    /// An entry that must be a link.
    #[error("it is not a symbolic link")]
    NoLink,
    /// A parent that is not beside the checkpoint.
    #[error("an earlier checkpoint must be beside this one (../NAME), and this one names {}; move the earlier checkpoint there", .0.display())]
    NoSibling(PathBuf),
    /// More entries than a checkpoint has.
    #[error("it has more entries than any checkpoint")]
    TooMany,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(io::ErrorKind::InvalidInput, refused)
    }
}
