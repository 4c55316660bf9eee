//! Why the store can't be used.

use std::io;
use std::path::{Path, PathBuf};

/// The store can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the store.
    #[error("the store cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others could change it.
    #[error("the store {} belongs to user {owner} with mode {mode:o}; it must be root's alone: chown root, chmod 0700", path.display())]
    Insecure {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// The catalogue was written by a newer version.
    #[error("the store's catalogue {} has version {found}, and this version reads up to {known}: update it", path.display())]
    Newer {
        /// The catalogue.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known version.
        known: i64,
    },
    /// The catalogue is damaged.
    #[error("the store's catalogue {} is damaged: {why}; run cedana store check --repair, which makes it again from the packs", path.display())]
    Damaged {
        /// The catalogue.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// SQLite fails.
    #[error("the store's catalogue {} cannot be used: {source}", path.display())]
    Catalogue {
        /// The catalogue.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The quota is used up.
    #[error("the store {} holds {used} MiB of the {quota} MiB that store.quota allows; remove checkpoints, run cedana store gc, or raise store.quota", path.display())]
    Quota {
        /// The store.
        path: PathBuf,
        /// What it holds, in MiB.
        used: u64,
        /// The quota, in MiB.
        quota: u64,
    },
    /// Others use it.
    #[error("the store {} is in use by a checkpoint, a restore, a collection or another check; try again when that has ended", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// Compression fails.
    #[error("a chunk cannot be compressed: {0}")]
    Encoder(#[source] io::Error),
    /// A chunk that a checkpoint needs is neither where its list says nor in the catalogue.
    #[error("chunk {name} is not in the store {}{}: the checkpoint's memory is lost, or was written to another store; restore it on the node that took it, or from an export", path.display(), at(*offset))]
    Missing {
        /// The chunk.
        name: crate::chunk::Name,
        /// Its place in the memory.
        offset: u64,
        /// The store.
        path: PathBuf,
    },
    /// A list of chunks is damaged.
    #[error("the list of chunks is damaged: {0}")]
    List(#[from] crate::list::Malformed),
}

fn at(offset: u64) -> String {
    format!(" (memory from byte {offset} on)")
}

/// Names an operation on a file.
pub(crate) fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}
