//! Why a stored checkpoint can't be used.

use std::path::PathBuf;

use super::{manifest, pages};
use crate::images;

/// Why a directory can't be restored from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of CRIU's images, or the directory itself.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// One of its files is not the one that the manifest names.
    #[error("the checkpoint's {} does not match the manifest: it is damaged or of another checkpoint; take the checkpoint again or restore another", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// Its parents have parents without end.
    #[error("the checkpoint's parents lead to {} and on without end; one of them is its own parent", dir.display())]
    TooManyParents {
        /// Where it was enough.
        dir: PathBuf,
    },
    /// Its manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// One of its page files can't be used.
    #[error(transparent)]
    Pages(#[from] pages::Damage),
}
