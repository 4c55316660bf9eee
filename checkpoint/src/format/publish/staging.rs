//! The staging directory of a new checkpoint.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::error::{Error, at};
use super::recover::{INVENTORY, MOVING, NEW, PARENT, READY, carry_on, remove_checkpoint};
use super::steps::{
    Durability, file_name, list, lock, private_dir, remove, rename, step, sync_files,
};
use crate::format::manifest::{self, Entry, Kind, Manifest};

/// The name under which an unpublished checkpoint is kept ([`Staging::keep`]).
const UNFINISHED: &str = "cedana-unfinished";

/// The staging directory of a checkpoint. Dropping it before [`Staging::publish`]
/// removes the new files.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    /// The directory to write to: a subdirectory of DIR, or DIR itself.
    place: PathBuf,
    existed: bool,
    was_empty: bool,
    pub(super) done: bool,
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
