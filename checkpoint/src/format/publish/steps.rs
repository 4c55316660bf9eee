//! File operations of publishing. A test can simulate a kill before each change.
//!
//! All of them name entries of an open directory, and none follows a link.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, syncfs, unlinkat};

use super::error::{Error, at};
use crate::opened::{OpenedDir, kind};

/// The failures that a checkpoint must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power failures: each step is synced before the next.
    Disk,
    /// Killed processes only: the caller copies the checkpoint and removes it.
    Copied,
}

impl Durability {
    /// Syncs a directory, if the checkpoint must survive a power failure.
    pub(super) fn sync(self, dir: &OpenedDir) -> Result<(), Error> {
        if self == Self::Copied {
            return Ok(());
        }
        step()
            .and_then(|()| Ok(fsync(dir)?))
            .map_err(at("sync", dir.path()))
    }
}

/// Locks a directory. `None` on a file system without such locks (NFS locks only files
/// that are open for writing).
pub(super) fn lock(dir: &OpenedDir) -> Result<Option<Flock<File>>, Error> {
    // A lock belongs to an open file description, so it gets one of its own.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let file = openat(dir, ".", flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(at("open", dir.path()))?;
    match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::Busy {
            dir: dir.path().to_owned(),
        }),
        Err(_) => Ok(None),
    }
}

/// Makes a directory by its path, with those above it.
pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(dir))
        .map_err(at("make the directory", dir))
}

/// Makes a subdirectory and opens it.
pub(super) fn private_subdirectory(dir: &OpenedDir, name: &str) -> Result<OpenedDir, Error> {
    step()
        .and_then(|()| Ok(mkdirat(dir, name, Mode::S_IRWXU)?))
        .and_then(|()| dir.subdirectory(name))
        .map_err(at("make the directory", &dir.path().join(name)))
}

pub(super) fn list(dir: &OpenedDir) -> Result<Vec<String>, Error> {
    dir.names().map_err(at("read", dir.path()))
}

/// Moves an entry of one directory to another, or renames it.
pub(super) fn rename(
    (from, name): (&OpenedDir, &str),
    (to, new): (&OpenedDir, &str),
) -> Result<(), Error> {
    step()
        .and_then(|()| Ok(renameat(from, name, to, new)?))
        .map_err(at("move", &from.path().join(name)))
}

/// Removes a file or a directory. A missing one is not an error.
pub(super) fn remove(dir: &OpenedDir, name: &str) -> Result<(), Error> {
    let remove = || {
        step()?;
        match dir.status(name)? {
            Some(status) if kind(&status) == libc::S_IFDIR => {
                let within = dir.subdirectory(name)?;
                remove_entries(&within)?;
                Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
            }
            Some(_) => Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?),
            None => Ok(()),
        }
    };
    remove().map_err(at("remove", &dir.path().join(name)))
}

/// Removes everything in a directory. Each level has a descriptor, so the limit of open
/// files bounds the depth.
fn remove_entries(dir: &OpenedDir) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(dir, ".", flags, Mode::empty())?;
    // The names are read first, because removal moves the position in some directories.
    let names: Vec<_> = entries
        .iter()
        .map(|entry| Ok(entry?.file_name().to_owned()))
        .collect::<io::Result<_>>()?;
    for name in names {
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, &*name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => {
                let Ok(text) = name.to_str() else {
                    return Err(io::ErrorKind::InvalidFilename.into());
                };
                remove_entries(&dir.subdirectory(text)?)?;
                unlinkat(dir, &*name, UnlinkatFlags::RemoveDir)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes a new file.
pub(super) fn write(dir: &OpenedDir, name: &str, content: &[u8]) -> Result<(), Error> {
    create(dir, name)
        .and_then(|mut file| file.write_all(content))
        .map_err(at("write", &dir.path().join(name)))
}

/// Creates a file, which must not exist.
pub(super) fn create(dir: &OpenedDir, name: &str) -> io::Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    step()?;
    Ok(File::from(openat(dir, name, flags, mode)?))
}

/// The most files that are synced one by one. An fsync takes about 4 ms, so with more
/// of them the whole file system is synced instead, which also writes other programs'
/// data. Since Linux 5.8 this reports errors, too (syncfs(2)).
const MAX_SYNCED: usize = 256;

/// Syncs the files in a directory and below it, and the directory.
pub(super) fn sync_files(dir: &OpenedDir) -> Result<(), Error> {
    // Write-back of all files is started before the first is synced, because the commit
    // for the first one then covers the others, too.
    let mut files = Vec::new();
    for name in list(dir)? {
        let status = dir.status(&name).map_err(at("read", dir.path()))?;
        let kind = status.map(|status| kind(&status));
        if kind == Some(libc::S_IFDIR) {
            let below = dir.subdirectory(&name);
            sync_files(&below.map_err(at("open", &dir.path().join(&name)))?)?;
        }
        if kind == Some(libc::S_IFREG) {
            let failed = at("open", &dir.path().join(&name));
            crate::sys::start_writing(dir.file(&name).map_err(failed)?.file());
            files.push(name);
        }
    }
    if files.len() > MAX_SYNCED {
        // Each fsync waits for the disk's cache, even if nothing is left to write.
        return step()
            .and_then(|()| Ok(syncfs(dir)?))
            .map_err(at("sync", dir.path()));
    }
    for name in files {
        step()
            .and_then(|()| dir.file(&name)?.file().sync_all())
            .map_err(at("sync", &dir.path().join(&name)))?;
    }
    Durability::Disk.sync(dir)
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
