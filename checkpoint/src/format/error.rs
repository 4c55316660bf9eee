//! Errors of reading a stored checkpoint.

use std::path::PathBuf;

use super::{manifest, pages, streams};
use crate::images;

/// The reason that a stored checkpoint can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of CRIU's images, or the directory, can't be read.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// One of its files is not the one that the manifest names.
    #[error("the checkpoint's {} does not match the manifest: it is damaged or of another checkpoint; take the checkpoint again or restore another", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// The archive of its TCP connections is not one of this program.
    #[error("the checkpoint's {} is not an archive of TCP connections: {fault}; take the checkpoint again or restore another", file.display())]
    Streams {
        /// The file.
        file: PathBuf,
        /// The fault of the archive.
        #[source]
        fault: streams::Fault,
    },
    /// An image is in the archive of TCP connections and a file, too.
    #[error("the checkpoint {} has {name} twice, in a file and in {}; take the checkpoint again or restore another", dir.display(), streams::NAME)]
    Twice {
        /// The checkpoint.
        dir: PathBuf,
        /// The image.
        name: String,
    },
    /// Its earlier checkpoint can't be opened.
    #[error("the earlier checkpoint that {} builds on cannot be used: {source}", dir.display())]
    Parent {
        /// The checkpoint.
        dir: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Its chain of parents is too long.
    #[error("the checkpoint's chain of parents is too long (at {}); one of them is its own parent", dir.display())]
    TooManyParents {
        /// The first parent beyond the limit.
        dir: PathBuf,
    },
    /// Its manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// One of its page files can't be used.
    #[error(transparent)]
    Pages(#[from] pages::Damage),
}
