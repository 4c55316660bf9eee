//! Where a checkpoint goes: whole, or not at all.
//!
//! ```text
//! Archive    an unnamed file (O_TMPFILE) of the owner ─ synced ─► linked: NAME_TIME.tar
//! Directory  a staging directory                      ─ synced ─► renamed (format::publish)
//! ```
//!
//! An archive's directory may be its owner's. It is opened, and the file made, with the
//! owner's rights ([`crate::Owner`]). [`NewArchive`] has the rest.

use std::io;
use std::path::{Path, PathBuf};

use cedana_checkpoint::format::publish::{
    ArchivePlace, Durability, NewArchive, Staging, open_directory,
};
use cedana_contract::pid::Pid;
use nix::sys::statvfs::fstatvfs;

use crate::error::Error;
use crate::owner::Owner;

/// Where a checkpoint goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// A directory that becomes the checkpoint. It must be root's alone.
    Directory(PathBuf),
    /// One file `NAME_DATETIME.tar` in a directory.
    Archive {
        /// The directory.
        dir: PathBuf,
        /// The file's owner, which must be able to write to the directory.
        owner: Owner,
    },
}

impl Target {
    /// The user that can read the checkpoint.
    pub(crate) fn owner(&self) -> &Owner {
        static ROOT: Owner = Owner::ROOT;
        match self {
            Self::Directory(_) => &ROOT,
            Self::Archive { owner, .. } => owner,
        }
    }
}

/// A place that is prepared for one attempt.
pub(crate) enum Destination {
    Directory(Box<Staging>),
    Archive(Box<NewArchive>),
}

impl Destination {
    /// Prepares a place. `name` is the checkpoint's, for the archive's name.
    pub(crate) fn prepare(pid: Pid, target: &Target, name: &str) -> Result<Self, Error> {
        match target {
            Target::Directory(dir) => {
                let staging = Staging::prepare(dir, Durability::Disk);
                let staging = staging.map_err(|source| Error::Publish { pid, source })?;
                Ok(Self::Directory(Box::new(staging)))
            }
            Target::Archive { dir, owner } => {
                let failed = |source| Error::Target {
                    path: dir.clone(),
                    source,
                };
                let place = owner.act(|| ArchivePlace::open(dir)).map_err(failed)?;
                let user = (!owner.is_root()).then_some((owner.uid, owner.gid));
                let archive = NewArchive::begin(place, name, user);
                let archive = archive.map_err(|source| Error::Publish { pid, source })?;
                Ok(Self::Archive(Box::new(archive)))
            }
        }
    }

    /// The directory that CRIU writes to.
    pub(crate) fn images(&self) -> PathBuf {
        match self {
            Self::Directory(staging) => staging.place().to_owned(),
            Self::Archive(archive) => archive.scratch().path(),
        }
    }
}

/// The bytes that are free for this process in a directory.
pub(crate) fn free(target: &Target) -> io::Result<(PathBuf, u64)> {
    let path = match target {
        Target::Directory(dir) => match dir.exists() {
            true => dir.clone(),
            false => dir.parent().unwrap_or(Path::new("/")).to_owned(),
        },
        Target::Archive { dir, .. } => dir.clone(),
    };
    let opened = target.owner().act(|| open_directory(&path))?;
    let status = fstatvfs(&opened)?;
    Ok((
        path,
        status
            .blocks_available()
            .saturating_mul(status.fragment_size()),
    ))
}
