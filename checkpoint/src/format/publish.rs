//! Staging and atomic publishing of a checkpoint, and recovery after a kill.
//!
//! A directory without inventory.img is not a checkpoint. So a new checkpoint is
//! written to a subdirectory; the older inventory is the first file to be removed,
//! and the new one the last to be moved:
//!
//! ```text
//! DIR/.cedana-new     the runtime, CRIU and the capture write here
//!   │                 files synced, then this directory
//!   ▼ rename ──────── DIR synced: from here on the new one counts
//! DIR/.cedana-ready   an older checkpoint in DIR is removed, inventory first
//!   ▼ rename ──────── DIR synced
//! DIR/.cedana-moving  the files move up into DIR, synced, then the inventory
//!   ▼ rmdir
//! DIR/*               the new checkpoint
//! ```
//!
//! A killed process leaves one of these names behind, and the next checkpoint or
//! restore recovers from it ([`recover`]): `.cedana-new` is removed, the other two
//! are complete and on disk, and are moved to their place. Until then the
//! directory holds the older checkpoint or none, never a mixture.
//!
//! The directory is within DIR, and not beside it, because engines make DIR and
//! delete it when a checkpoint fails, leftovers included. The writing process
//! holds a lock on DIR, which distinguishes a run under way from a leftover.
//!
//! Files in DIR that belong to no checkpoint stay.
//!
//! If the caller copies DIR and removes it, nothing is synced
//! ([`Durability::Copied`]): the order of the steps protects against a kill, and
//! the copy against a power failure.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::manifest::{self, Entry, Kind, Manifest};

const NEW: &str = ".cedana-new";
const READY: &str = ".cedana-ready";
const MOVING: &str = ".cedana-moving";

/// What could not be published is kept under this name, if it must be.
const UNFINISHED: &str = "cedana-unfinished";

const INVENTORY: &str = "inventory.img";

/// The link that CRIU makes to an earlier pre-dump (CRIU's `CR_PARENT_LINK`).
const PARENT: &str = "parent";

/// What could not be done to which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another checkpoint is being written there.
    #[error("another checkpoint is being written to {}; wait for it to end, or choose another directory", dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
}

impl Error {
    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => is_full(source),
            Self::Busy { .. } => false,
        }
    }
}

/// Whether an error means that there is no room.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// What a checkpoint has to outlast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power failures: nothing counts before it is on disk.
    Disk,
    /// Killed processes only: the caller copies the checkpoint and removes it.
    Copied,
}

impl Durability {
    fn sync(self, path: &Path) -> Result<(), Error> {
        if self == Self::Copied {
            return Ok(());
        }
        step()
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(at("sync", path))
    }
}

/// The staging directory of a checkpoint. Dropping it before [`Staging::publish`]
/// removes what was written.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    /// Where to write: a directory within, or DIR itself.
    place: PathBuf,
    existed: bool,
    was_empty: bool,
    done: bool,
    durability: Durability,
    _lock: Option<Flock<File>>,
}

impl Staging {
    /// Makes a place for a new checkpoint that is to stand in `dir`, which is
    /// made if it isn't there, after finishing or undoing what a killed run left.
    ///
    /// # Errors
    /// The directory can't be made or written to, or another checkpoint is being
    /// written there.
    pub fn prepare(dir: &Path, durability: Durability) -> Result<Self, Error> {
        let mut staging = Self::open(dir)?;
        staging.durability = durability;
        staging.place = dir.join(NEW);
        private_dir(&staging.place)?;
        Ok(staging)
    }

    /// The same, but writing goes straight to `dir`, where others read along
    /// while CRIU is still running (lazy pages). An older checkpoint has to go
    /// first.
    ///
    /// # Errors
    /// As for [`Self::prepare`].
    pub fn in_place(dir: &Path) -> Result<Self, Error> {
        let staging = Self::open(dir)?;
        if dir.join(INVENTORY).exists() {
            remove_checkpoint(dir)?;
        }
        Ok(staging)
    }

    fn open(dir: &Path) -> Result<Self, Error> {
        let existed = dir.is_dir();
        if !existed {
            private_dir(dir)?;
        }
        let lock = lock(dir)?;
        carry_on(dir, Durability::Disk)?;
        let was_empty = list(dir)?.is_empty();
        Ok(Self {
            dir: dir.to_owned(),
            place: dir.to_owned(),
            existed,
            was_empty,
            done: false,
            durability: Durability::Disk,
            _lock: lock,
        })
    }

    /// Where the checkpoint will stand.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that the runtime, CRIU and the capture write to.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Digests all files but the page files, of which `pages` has the entries,
    /// and gives the list for the manifest.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn digest(&self, mut pages: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for path in list(&self.place)? {
            let name = file_name(&path);
            let known = pages.iter().any(|entry| entry.name == name);
            // The log is written to until CRIU's very end.
            if known || name.ends_with(".log") || name == manifest::NAME || !path.is_file() {
                continue;
            }
            let failed = at("read", &path);
            let mut hasher = blake3::Hasher::new();
            let file = File::open(&path).map_err(&failed)?;
            let size = io::copy(&mut &file, &mut hasher).map_err(&failed)?;
            let kind = match name.ends_with(".img") {
                true => Kind::Image,
                false => Kind::Other,
            };
            entries.push(Entry::whole(&name, kind, size, hasher.finalize()));
        }
        entries.append(&mut pages);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Where CRIU's `parent` link leads, if it made one. `shown` is what the
    /// caller was given; in the place the link has to lead one step further up,
    /// and it is set right here.
    ///
    /// # Errors
    /// The link can't be replaced.
    pub fn parent(&self, shown: &Path) -> Result<Option<String>, Error> {
        let link = self.place.join(PARENT);
        if self.place == self.dir || !link.is_symlink() {
            return Ok(None);
        }
        remove(&link)?;
        std::os::unix::fs::symlink(shown, &link).map_err(at("make the link", &link))?;
        Ok(Some(shown.to_string_lossy().into_owned()))
    }

    /// Puts the checkpoint into its place, to last as [`Staging::prepare`] was
    /// told. With a manifest, unless what was written is no checkpoint of its own
    /// (a pre-dump).
    ///
    /// # Errors
    /// Something can't be written. If the new one was on disk by then it stays,
    /// and [`recover`] finishes this; otherwise it is still where it was written.
    pub fn publish(&mut self, manifest: Option<&Manifest>) -> Result<(), Error> {
        if self.place == self.dir {
            self.done = true;
            return Ok(());
        }
        if let Some(manifest) = manifest {
            let path = self.place.join(manifest::NAME);
            let text = manifest.render().map_err(at("write", &path))?;
            step()
                .and_then(|()| fs::write(&path, text))
                .map_err(at("write", &path))?;
        }
        if self.durability == Durability::Disk {
            sync_files(&self.place)?;
        }
        let next = match self.dir.join(INVENTORY).exists() {
            true => READY,
            false => MOVING,
        };
        rename(&self.place, &self.dir.join(next))?;
        self.done = true;
        self.durability.sync(&self.dir)?;
        if !self.existed {
            let parent = self.dir.parent().filter(|path| *path != Path::new(""));
            self.durability.sync(parent.unwrap_or(Path::new(".")))?;
        }
        carry_on(&self.dir, self.durability)
    }

    /// Removes what was written. What was in the directory before stays, and the
    /// directory, if it was there.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn abandon(mut self) -> Result<(), Error> {
        self.done = true;
        self.clean()
    }

    /// Keeps what was written, although it could not be published, in a directory
    /// that is not cleaned up, for a container that has ended. Returns its path.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        if self.done {
            return self.dir.clone();
        }
        self.done = true;
        let kept = self.dir.join(UNFINISHED);
        match rename(&self.place, &kept) {
            Ok(()) => kept,
            Err(_) => self.place.clone(),
        }
    }

    fn clean(&self) -> Result<(), Error> {
        if self.place != self.dir {
            remove(&self.place)?;
        }
        if self.existed && !self.was_empty {
            return Ok(());
        }
        // A log, if CRIU was to work in the same directory.
        for path in list(&self.dir)? {
            remove(&path)?;
        }
        match self.existed {
            true => Ok(()),
            false => fs::remove_dir(&self.dir).map_err(at("remove", &self.dir)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            // What can't be removed now is a leftover, and known as one.
            let _ = self.clean();
        }
    }
}

/// Finishes or undoes what a killed run left in `dir`: call it before reading a
/// checkpoint. Nothing is touched while a run is under way.
///
/// # Errors
/// There is something to be done and it can't be.
pub fn recover(dir: &Path) -> Result<(), Error> {
    // First, so that a directory that can't be locked can be read.
    if ![NEW, READY, MOVING]
        .iter()
        .any(|name| dir.join(name).exists())
    {
        return Ok(());
    }
    match lock(dir) {
        Ok(_lock) => carry_on(dir, Durability::Disk),
        Err(Error::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn carry_on(dir: &Path, durability: Durability) -> Result<(), Error> {
    let new = dir.join(NEW);
    if new.exists() {
        remove(&new)?;
    }
    let (ready, moving) = (dir.join(READY), dir.join(MOVING));
    if ready.is_dir() {
        remove_checkpoint(dir)?;
        durability.sync(dir)?;
        rename(&ready, &moving)?;
        durability.sync(dir)?;
    }
    if moving.is_dir() {
        let mut files = list(&moving)?;
        let inventory = files.iter().position(|path| path.ends_with(INVENTORY));
        let inventory = inventory.map(|at| files.swap_remove(at));
        for file in files {
            rename(&file, &dir.join(file_name(&file)))?;
        }
        durability.sync(dir)?;
        if let Some(inventory) = inventory {
            rename(&inventory, &dir.join(INVENTORY))?;
            durability.sync(dir)?;
        }
        remove(&moving)?;
    }
    Ok(())
}

/// Removes the files of the checkpoint in `dir`: CRIU's images, ours, and what
/// runtimes leave beside them.
fn remove_checkpoint(dir: &Path) -> Result<(), Error> {
    let mut files = list(dir)?;
    files.retain(|path| {
        let name = file_name(path);
        [".img", ".img.zst", ".img.table"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
            || ["descriptors.json", "stats-dump", manifest::NAME].contains(&name.as_str())
            || (name == PARENT && path.is_symlink())
    });
    files.sort_by_key(|path| !path.ends_with(INVENTORY));
    files.iter().try_for_each(|path| remove(path))
}

/// Locks a directory; nothing on a file system that can't (NFS locks only what
/// is open for writing).
fn lock(dir: &Path) -> Result<Option<Flock<File>>, Error> {
    let file = File::open(dir).map_err(at("open", dir))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::Busy {
            dir: dir.to_owned(),
        }),
        Err(_) => Ok(None),
    }
}

fn private_dir(dir: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(dir))
        .map_err(at("make the directory", dir))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(at("read", dir))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| fs::rename(from, to))
        .map_err(at("move", from))
}

/// Removes a file or a directory; a missing one is no error.
fn remove(path: &Path) -> Result<(), Error> {
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

/// Brings the files in a directory to disk, and the directory.
fn sync_files(dir: &Path) -> Result<(), Error> {
    // All of them begun before the first is waited for: what that one makes the
    // file system commit holds for the others too.
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

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        what,
        path: path.clone(),
        source,
    }
}

/// Where a test ends a run: before the system is asked to change anything.
#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests;
