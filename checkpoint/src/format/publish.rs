//! Staging and atomic publishing of a checkpoint, and recovery after a kill.
//!
//! A directory without inventory.img is not a checkpoint. So a new checkpoint is
//! written to a subdirectory; the older inventory is the first file to be removed,
//! and the new one the last to be moved:
//!
//! ```text
//! DIR/.cedana-new     the runtime, CRIU and the capture write here
//!   │                 files synced, then this directory
//!   ▼ rename ──────── DIR synced: from here on the new checkpoint is recovered
//! DIR/.cedana-ready   an older checkpoint in DIR is removed, inventory first
//!   ▼ rename ──────── DIR synced
//! DIR/.cedana-moving  the files move up into DIR, synced, then the inventory
//!   ▼ rmdir
//! DIR/*               the new checkpoint
//! ```
//!
//! A killed process leaves one of these names behind, and the next checkpoint or
//! restore recovers from it ([`recover`]): it removes `.cedana-new`. The other two are
//! complete and on disk, so it moves them to their place. Until then the directory
//! holds the older checkpoint or none, never a mixture.
//!
//! The subdirectory is in DIR, and not beside it, because engines create DIR and
//! remove it when a checkpoint fails, with the leftovers. The writing process holds a
//! lock on DIR, which distinguishes a running checkpoint from a leftover.
//!
//! Other files in DIR stay.
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

/// The name under which an unpublished checkpoint is kept ([`Staging::keep`]).
const UNFINISHED: &str = "cedana-unfinished";

const INVENTORY: &str = "inventory.img";

/// The link that CRIU makes to an earlier pre-dump (CRIU's `CR_PARENT_LINK`).
const PARENT: &str = "parent";

/// The reason that a checkpoint could not be written or published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// The system's error.
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

/// Whether an error means that the disk, or the user's share of it, is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The failures that a checkpoint must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power failures: each step is synced before the next.
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
/// removes the new files.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    /// The directory to write to: a subdirectory of DIR, or DIR itself.
    place: PathBuf,
    existed: bool,
    was_empty: bool,
    done: bool,
    durability: Durability,
    _lock: Option<Flock<File>>,
}

impl Staging {
    /// Creates the staging directory for a new checkpoint in `dir`, and `dir` if it is
    /// missing. First it finishes or removes the leftovers of a killed run.
    ///
    /// # Errors
    /// The directory can't be created or written to, or another checkpoint is being
    /// written there.
    pub fn prepare(dir: &Path, durability: Durability) -> Result<Self, Error> {
        let mut staging = Self::open(dir)?;
        staging.durability = durability;
        staging.place = dir.join(NEW);
        private_dir(&staging.place)?;
        Ok(staging)
    }

    /// Prepares `dir` for a checkpoint that is written directly to it, because other
    /// programs read it while CRIU is running (lazy pages). An older checkpoint is
    /// removed first.
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

    /// The directory of the published checkpoint.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that the runtime, CRIU and the capture write to.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Computes the digests of all files but the page files, whose entries are `pages`,
    /// and returns the manifest's list of files.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn digest(&self, mut pages: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for path in list(&self.place)? {
            let name = file_name(&path);
            let known = pages.iter().any(|entry| entry.name == name);
            // CRIU writes to the log until it exits.
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

    /// Replaces the target of CRIU's `parent` link by `shown`, the path that the caller
    /// was given, and returns it. `None` if CRIU made no link. In the staging directory
    /// the target was one level further up.
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

    /// Publishes the checkpoint, with the durability given to [`Staging::prepare`]. A
    /// pre-dump has no manifest.
    ///
    /// # Errors
    /// A file can't be written. If the new checkpoint was on disk by then it stays, and
    /// [`recover`] finishes the publishing; otherwise it is still in the staging
    /// directory.
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

    /// Removes the new files. Files that were in the directory before stay, and so does
    /// the directory, if it existed.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn abandon(mut self) -> Result<(), Error> {
        self.done = true;
        self.clean()
    }

    /// Keeps a checkpoint that could not be published, because its container has ended,
    /// in a directory that is not cleaned up. Returns its path.
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
        // A log, if CRIU's work directory is the same.
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
            // The next run removes the files that can't be removed now.
            let _ = self.clean();
        }
    }
}

/// Finishes or removes the leftovers of a killed run in `dir`. To be called before a
/// checkpoint is read. It changes nothing while another process writes there.
///
/// # Errors
/// The leftovers can't be moved or removed.
pub fn recover(dir: &Path) -> Result<(), Error> {
    // Without leftovers there is no lock, so that a directory that can't be locked can
    // be read.
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

/// Removes the files of the checkpoint in `dir`: CRIU's images, ours, and those that
/// runtimes write beside them.
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

/// Locks a directory. `None` on a file system without such locks (NFS locks only files
/// that are open for writing).
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

/// Removes a file or a directory. A missing one is not an error.
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

/// Syncs the files in a directory, and the directory.
fn sync_files(dir: &Path) -> Result<(), Error> {
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

/// A hook before each change, at which a test simulates a kill.
#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests;
