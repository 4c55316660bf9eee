//! The staging directory of a new checkpoint.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::libc;
use nix::unistd::symlinkat;

use super::error::{Error, at};
use super::recover::{INVENTORY, MOVING, NEW, READY, carry_on, remove_checkpoint};
use super::steps::{
    Durability, list, lock, private_dir, private_subdirectory, remove, rename, sync_files, write,
};
use crate::format::manifest::{self, Entry, Kind, Manifest, PARENT};
use crate::opened::{OpenedDir, Refused, kind, sibling_name};

/// The name under which an unpublished checkpoint is kept ([`Staging::keep`]).
const UNFINISHED: &str = "cedana-unfinished";

/// The staging directory of a checkpoint. Dropping it before [`Staging::publish`]
/// removes the new files.
#[derive(Debug)]
pub struct Staging {
    dir: OpenedDir,
    /// The subdirectory to write to. `None` writes to `dir` itself.
    new: Option<OpenedDir>,
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
    /// The directory can't be created or written to, another user could change a
    /// checkpoint there, or another checkpoint is being written there.
    pub fn prepare(dir: &Path, durability: Durability) -> Result<Self, Error> {
        let mut staging = Self::open(dir)?;
        staging.durability = durability;
        staging.new = Some(private_subdirectory(&staging.dir, NEW)?);
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
        if staging.dir.has(INVENTORY) {
            remove_checkpoint(&staging.dir)?;
        }
        Ok(staging)
    }

    fn open(path: &Path) -> Result<Self, Error> {
        let (dir, existed) = match OpenedDir::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_dir(path)?;
                (OpenedDir::open(path), false)
            }
            dir => (dir, true),
        };
        let dir = dir.map_err(at("open", path))?;
        if let Some(insecure) = dir.insecure().map_err(at("read", path))? {
            if !existed {
                let _ = fs::remove_dir(path);
            }
            return Err(insecure.into());
        }
        let lock = lock(&dir)?;
        carry_on(&dir, Durability::Disk)?;
        let was_empty = list(&dir)?.is_empty();
        Ok(Self {
            dir,
            new: None,
            existed,
            was_empty,
            done: false,
            durability: Durability::Disk,
            _lock: lock,
        })
    }

    /// Checks the caller's path of an earlier checkpoint, relative to the new one, before
    /// anything is written.
    ///
    /// # Errors
    /// It is not beside the new one, where a restore looks for it.
    pub fn check_parent(path: &Path) -> Result<(), Error> {
        match sibling_name(path) {
            Some(_) => Ok(()),
            None => Err(Error::Parent {
                why: Refused::NoSibling(path.to_owned()),
            }),
        }
    }

    /// The directory of the published checkpoint.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The directory that the runtime, CRIU and the capture write to.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.within().path()
    }

    pub(super) fn within(&self) -> &OpenedDir {
        self.new.as_ref().unwrap_or(&self.dir)
    }

    /// Computes the digests of all files but the page files, whose entries are `pages`,
    /// and returns the manifest's list of files.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn digest(&self, mut pages: Vec<Entry>) -> Result<Vec<Entry>, Error> {
        let within = self.within();
        let mut entries = Vec::new();
        for name in list(within)? {
            let failed = at("read", &within.path().join(&name));
            let known = pages.iter().any(|entry| entry.name == name);
            // CRIU writes to the log until it exits.
            if known || name.ends_with(".log") || name == manifest::NAME {
                continue;
            }
            let status = within.status(&name).map_err(&failed)?;
            if status.is_none_or(|status| kind(&status) != libc::S_IFREG) {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            let file = within.file(&name).map_err(&failed)?;
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
        let Some(new) = &self.new else {
            return Ok(None);
        };
        if !matches!(new.link(PARENT), Ok(Some(_))) {
            return Ok(None);
        }
        remove(new, PARENT)?;
        symlinkat(shown, new, PARENT)
            .map_err(io::Error::from)
            .map_err(at("make the link", &new.path().join(PARENT)))?;
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
        let Some(new) = &self.new else {
            self.done = true;
            return Ok(());
        };
        if let Some(manifest) = manifest {
            let text = manifest.render();
            let text = text.map_err(at("write", &new.path().join(manifest::NAME)))?;
            write(new, manifest::NAME, &text)?;
        }
        if self.durability == Durability::Disk {
            sync_files(new)?;
        }
        let next = match self.dir.has(INVENTORY) {
            true => READY,
            false => MOVING,
        };
        rename((&self.dir, NEW), (&self.dir, next))?;
        self.done = true;
        self.durability.sync(&self.dir)?;
        if !self.existed {
            let above = self.dir.above().map_err(at("open", self.dir.path()))?;
            self.durability.sync(&above)?;
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
            return self.dir().to_owned();
        }
        self.done = true;
        match rename((&self.dir, NEW), (&self.dir, UNFINISHED)) {
            Ok(()) => self.dir().join(UNFINISHED),
            Err(_) => self.place().to_owned(),
        }
    }

    fn clean(&self) -> Result<(), Error> {
        if self.new.is_some() {
            remove(&self.dir, NEW)?;
        }
        if self.existed && !self.was_empty {
            return Ok(());
        }
        // A log, if CRIU's work directory is the same.
        for name in list(&self.dir)? {
            remove(&self.dir, &name)?;
        }
        match self.existed {
            true => Ok(()),
            false => fs::remove_dir(self.dir()).map_err(at("remove", self.dir())),
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
