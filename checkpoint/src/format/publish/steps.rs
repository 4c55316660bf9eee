//! File operations of publishing. A test can simulate a kill before each change.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{Error, at};

/// The failures that a checkpoint must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power failures: each step is synced before the next.
    Disk,
    /// Killed processes only: the caller copies the checkpoint and removes it.
    Copied,
}

impl Durability {
    /// Syncs a file or a directory, if the checkpoint must survive a power failure.
    pub(super) fn sync(self, path: &Path) -> Result<(), Error> {
        if self == Self::Copied {
            return Ok(());
        }
        step()
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(at("sync", path))
    }
}

/// Locks a directory. `None` on a file system without such locks (NFS locks only files
/// that are open for writing).
pub(super) fn lock(dir: &Path) -> Result<Option<Flock<File>>, Error> {
    let file = File::open(dir).map_err(at("open", dir))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::Busy {
            dir: dir.to_owned(),
        }),
        Err(_) => Ok(None),
    }
}

pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(dir))
        .map_err(at("make the directory", dir))
}

pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(at("read", dir))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| fs::rename(from, to))
        .map_err(at("move", from))
}

/// Removes a file or a directory. A missing one is not an error.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let remove = || {
        step()?;
        match fs::symlink_metadata(path)?.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        }
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Syncs the files in a directory, and the directory.
pub(super) fn sync_files(dir: &Path) -> Result<(), Error> {
    // Write-back of all files is started before the first is synced, because the commit
    // for the first one then covers the others, too.
    let mut files = list(dir)?;
    files.retain(|path| !path.is_symlink());
    for path in &files {
        crate::sys::start_writing(&File::open(path).map_err(at("open", path))?);
    }
    files.push(dir.to_owned());
    files
        .iter()
        .try_for_each(|path| Durability::Disk.sync(path))
}

pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A hook before each change, at which a test simulates a kill.
#[cfg(not(test))]
pub(super) fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use kill::step;

/// The hook of tests, which simulates a kill.
#[cfg(test)]
pub(super) mod kill {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Number of further changes that this thread may make.
        pub(in crate::format::publish) static STEPS: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(in crate::format::publish) fn step() -> io::Result<()> {
        STEPS.with(|steps| match steps.get() {
            Some(0) => Err(io::Error::other("killed")),
            Some(left) => {
                steps.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        })
    }
}
