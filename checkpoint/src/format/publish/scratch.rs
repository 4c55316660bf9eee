//! A private directory that exists for one command.
//!
//! It is made in a directory that other users may write to: it belongs to this process's
//! user alone, it is reached through its descriptor, and its lock tells a running
//! command's directory from one that a killed command left. The next command removes
//! those.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::libc;
use nix::sys::stat::fstat;
use nix::unistd::geteuid;

use super::error::{Error, at};
use super::steps::{list, lock, private_subdirectory, remove};
use crate::opened::{OpenedDir, kind};

/// What the names of such directories begin with.
const PREFIX: &str = ".cedana-work-";

/// The most names that are tried. Other commands take a name each at most.
const ATTEMPTS: u32 = 10_000;

/// See the module's documentation. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    above: OpenedDir,
    name: String,
    dir: OpenedDir,
    _lock: Option<Flock<File>>,
}

impl Scratch {
    /// Removes what killed commands left in `above`, and makes a new directory there.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn create(above: OpenedDir) -> Result<Self, Error> {
        clean(&above)?;
        for number in 0..ATTEMPTS {
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            let dir = match private_subdirectory(&above, &name) {
                // Another command has it, or has taken it for a leftover before its lock.
                Err(Error::File { source, .. })
                    if number + 1 < ATTEMPTS
                        && matches!(
                            source.kind(),
                            ErrorKind::AlreadyExists | ErrorKind::NotFound
                        ) =>
                {
                    continue;
                }
                dir => dir?,
            };
            let lock = match lock(&dir) {
                Ok(lock) => lock,
                // Another command takes it for a leftover.
                Err(Error::Busy { .. }) => continue,
                Err(error) => return Err(error),
            };
            if is_same(&above, &name, &dir) {
                return Ok(Self {
                    above,
                    name,
                    dir,
                    _lock: lock,
                });
            }
        }
        Err(Error::Busy {
            dir: above.path().to_owned(),
        })
    }

    /// The path by which this process and CRIU reach it, whatever becomes of its name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        crate::host::procfs::descriptor(&self.dir.as_fd())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &OpenedDir {
        &self.dir
    }

    /// The names and lengths of its regular files.
    ///
    /// # Errors
    /// It can't be read.
    pub fn files(&self) -> std::io::Result<Vec<(String, u64)>> {
        self.dir.files(|_| true)
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// It can't be opened, or is refused.
    pub fn file(&self, name: &str) -> std::io::Result<crate::opened::Part> {
        self.dir.file(name)
    }

    /// The path for messages.
    #[must_use]
    pub fn shown(&self) -> &Path {
        self.dir.path()
    }
}

impl AsFd for Scratch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next command removes what can't be removed now.
        let _ = remove(&self.above, &self.name);
    }
}

/// Removes directories whose commands have ended.
fn clean(above: &OpenedDir) -> Result<(), Error> {
    for name in list(above)? {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let status = above.status(&name).map_err(at("read", above.path()))?;
        let is_ours = status.is_some_and(|status| {
            kind(&status) == libc::S_IFDIR && status.st_uid == geteuid().as_raw()
        });
        if let Some(dir) = is_ours.then(|| above.subdirectory(&name).ok()).flatten()
            && let Ok(Some(_lock)) = lock(&dir)
            && is_same(above, &name, &dir)
        {
            remove(above, &name)?;
        }
    }
    Ok(())
}

/// Whether the name is still this directory's.
fn is_same(above: &OpenedDir, name: &str, dir: &OpenedDir) -> bool {
    let inode = |status: nix::sys::stat::FileStat| (status.st_dev, status.st_ino);
    let named = above.status(name).ok().flatten().map(inode);
    named.is_some() && named == fstat(dir).ok().map(inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn leftovers_are_removed_and_running_ones_stay() {
        let dir = tempfile::tempdir().expect("tempdir");
        let above = || OpenedDir::open(dir.path()).expect("open");
        let running = Scratch::create(above()).expect("create");
        fs::write(running.path().join("image"), "x").expect("write");
        let left = Scratch::create(above()).expect("create");
        fs::write(left.path().join("image"), "x").expect("write");
        let name = left.name.clone();
        let mut left = std::mem::ManuallyDrop::new(left);
        // A killed process's lock ends with it.
        left._lock = None;
        fs::write(dir.path().join(".cedana-work-file"), "x").expect("write");
        let next = Scratch::create(above()).expect("create");
        assert!(!dir.path().join(&name).exists() || next.name == name);
        assert_eq!(running.files().expect("list"), [("image".to_owned(), 1)]);
        drop((running, next));
        let names: Vec<_> = fs::read_dir(dir.path()).expect("list").flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn commands_that_begin_at_once_get_a_directory_each() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let above = OpenedDir::open(dir.path()).expect("open");
                        let scratch = Scratch::create(above).expect("create");
                        fs::write(scratch.path().join("image"), "x").expect("write");
                        assert_eq!(scratch.files().expect("list").len(), 1);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
