//! The store's directory, its lock, and what is opened of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::Error;
use crate::catalogue::Catalogue;
use crate::error::file;
use crate::place::{Local, Place};

const PACKS: &str = "packs";
const INCOMING: &str = "incoming";
const LOCK: &str = "lock";
const COLLECTING: &str = "collecting";

/// An open store. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<Path>,
    place: Arc<dyn Place>,
}

/// While it lives no chunk is removed.
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Store {
    /// Opens a store, or makes one with the directories above it, for root alone.
    ///
    /// # Errors
    /// It can't be made, or others could change it.
    pub fn create(path: &Path) -> Result<Self, Error> {
        for dir in [path, &path.join(PACKS), &path.join(INCOMING)] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(file("make", dir))?;
        }
        Self::open(path)
    }

    /// Opens a store that exists.
    ///
    /// # Errors
    /// There is none, or others could change it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(file("open", path))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != geteuid().as_raw() && owner != 0 || mode & 0o022 != 0 {
            return Err(Error::Insecure {
                path: path.to_owned(),
                owner,
                mode,
            });
        }
        Ok(Self {
            place: Arc::new(Local::new(path.join(PACKS))),
            path: path.into(),
        })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its packs are.
    #[must_use]
    pub fn place(&self) -> &Arc<dyn Place> {
        &self.place
    }

    /// Where packs are written.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.path.join(INCOMING)
    }

    /// Opens its catalogue. Each thread has its own.
    ///
    /// # Errors
    /// It is damaged or newer, or SQLite's error.
    pub fn catalogue(&self) -> Result<Catalogue, Error> {
        Catalogue::open(&self.path)
    }

    /// Keeps all chunks while a checkpoint or a restore looks for them. Waits for a sweep,
    /// which takes a moment.
    ///
    /// # Errors
    /// The lock can't be opened: the file system is read-only, or not a local one.
    pub fn guard(&self) -> Result<Guard, Error> {
        self.lock(LOCK, FlockArg::LockShared)
    }

    /// Keeps sessions and restores out; `None` while there are any.
    ///
    /// # Errors
    /// As for [`Self::guard`].
    pub fn sweep(&self) -> Result<Option<Guard>, Error> {
        self.lock_alone(LOCK)
    }

    /// Keeps other collections and checks out; `None` while there is one.
    ///
    /// # Errors
    /// As for [`Self::guard`].
    pub fn collecting(&self) -> Result<Option<Guard>, Error> {
        self.lock_alone(COLLECTING)
    }

    fn lock_alone(&self, name: &str) -> Result<Option<Guard>, Error> {
        match self.lock(name, FlockArg::LockExclusiveNonblock) {
            Ok(guard) => Ok(Some(guard)),
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, name: &str, arg: FlockArg) -> Result<Guard, Error> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        // A restore reads from a store that can't be written, too.
        let lock = match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                options.write(true).create(true).truncate(false).open(&path)
            }
            lock => lock,
        };
        let lock = lock.map_err(file("open", &path))?;
        match Flock::lock(lock, arg) {
            Ok(lock) => Ok(Guard(lock)),
            Err((_, error)) => Err(file("lock", &path)(error.into())),
        }
    }
}
