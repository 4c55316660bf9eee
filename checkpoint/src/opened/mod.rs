//! A checkpoint's directory as a descriptor, which another user may have filled.
//!
//! ```text
//! path ── open, once ──► OpenedDir ── openat, O_NOFOLLOW ──► a regular file
//!                            │                               one link, expected owner
//!                            ├── "..", then NAME ──► a parent: a sibling directory
//!                            └── is_private: before a checkpoint is written to it
//! ```
//!
//! An archive ([`crate::archive`]) is opened as the directory that `tar -x` would make
//! of it: its files are ranges of the one open file.
//!
//! The caller chooses the path, so links in the path are followed, once, when the
//! directory is opened. Nothing in the directory is trusted: a link could lead to any
//! file of the host, a FIFO would block its reader, and a file with a second hard link
//! can be changed, or be a secret, elsewhere. Such entries are refused in words
//! ([`Refused`]). A file belongs to root, to this process's user, or to the owner of
//! the directory, who can replace it anyway.

mod archive;
mod file;
mod part;
mod refused;
mod target;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::geteuid;

use archive::OpenedArchive;
pub(crate) use file::open_file;
pub use part::Part;
pub use refused::Refused;
pub use target::Insecure;

/// Limit of the names of one directory that are held in memory. CRIU writes about ten
/// files for each process, and a machine has at most 4 million processes.
const MAX_NAMES: usize = 1 << 20;

/// An open directory. Its entries are reached through the descriptor alone.
#[derive(Debug)]
pub struct OpenedDir {
    fd: OwnedFd,
    path: PathBuf,
    owner: u32,
    /// The entries, if it is an archive and not a directory.
    archive: Option<OpenedArchive>,
}

impl OpenedDir {
    /// Opens a directory. Links in `path`, which the caller chose, are followed.
    ///
    /// # Errors
    /// open(2) fails, or `path` is not a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        // An empty path is the working directory, as for `Path::join`.
        let shown = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let fd = nix::fcntl::open(shown, directory_flags(), Mode::empty())?;
        Self::of(fd, path.to_owned())
    }

    fn of(fd: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let owner = fstat(&fd)?.st_uid;
        Ok(Self {
            fd,
            path,
            owner,
            archive: None,
        })
    }

    /// The path that it was opened by, for messages and for other programs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its entries, sorted. Names that are not UTF-8 are left out: neither
    /// CRIU nor a runtime writes such names.
    ///
    /// # Errors
    /// The directory can't be read, or has too many entries.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        self.accepted(|_, _| Ok(true))
    }

    /// The names of its regular files, sorted.
    ///
    /// # Errors
    /// As for [`Self::names`].
    pub(crate) fn regular_names(&self) -> io::Result<Vec<String>> {
        self.accepted(|name, kind| match kind {
            Some(kind) => Ok(kind == Type::File),
            // A file system that does not list the types.
            None => {
                let status = self.status(name)?;
                Ok(status.is_some_and(|status| self::kind(&status) == libc::S_IFREG))
            }
        })
    }

    /// The names that `accept` accepts, which gets the entry's type if it is known.
    fn accepted(
        &self,
        accept: impl Fn(&str, Option<Type>) -> io::Result<bool>,
    ) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        if let Some(archive) = &self.archive {
            return Ok(archive.names());
        }
        let mut dir = nix::dir::Dir::openat(&self.fd, ".", directory_flags(), Mode::empty())?;
        for entry in dir.iter() {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) if !accept(name, entry.file_type())? => {}
                Ok(_) if names.len() == MAX_NAMES => return Err(Refused::TooMany.into()),
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The names and sizes of the regular files that `wanted` accepts, sorted.
    ///
    /// # Errors
    /// As for [`Self::names`].
    pub(crate) fn files(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        if let Some(archive) = &self.archive {
            return Ok(archive.files(wanted));
        }
        for name in self.names()? {
            if wanted(&name)
                && let Some(status) = self.status(&name)?
                && kind(&status) == libc::S_IFREG
            {
                files.push((name, status.st_size.cast_unsigned()));
            }
        }
        Ok(files)
    }

    /// The status of an entry, which may be a link. `None` if it is missing, or an
    /// archive's.
    pub(crate) fn status(&self, name: &str) -> io::Result<Option<FileStat>> {
        if self.archive.is_some() {
            return Ok(None);
        }
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => Ok(Some(status)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is an entry of this name, of any kind.
    pub(crate) fn has(&self, name: &str) -> bool {
        matches!(self.status(name), Ok(Some(_)))
    }

    /// Opens a subdirectory. A link to a directory is refused.
    ///
    /// # Errors
    /// It is missing, not a directory, or of an unexpected owner.
    pub(crate) fn subdirectory(&self, name: &str) -> io::Result<Self> {
        self.beside(self.fd.as_fd(), name, self.path.join(name))
    }

    /// The target of the link `name`; `None` if there is no entry of this name.
    ///
    /// # Errors
    /// The entry is not a link, or can't be read.
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<PathBuf>> {
        match readlinkat(&self.fd, name) {
            Ok(target) => Ok(Some(target.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::EINVAL) => Err(Refused::NoLink.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the directory that `target` names, which must be `../NAME`: a directory
    /// beside this one.
    ///
    /// # Errors
    /// Another target, or a directory that can't be opened.
    pub(crate) fn sibling(&self, target: &Path) -> io::Result<Self> {
        if self.archive.is_some() {
            return Err(Refused::Alone.into());
        }
        let name = sibling_name(target).ok_or_else(|| Refused::NoSibling(target.to_owned()))?;
        let above = self.above()?;
        let path = above.path.join(name);
        self.beside(above.as_fd(), name, path)
    }

    /// Opens the directory above this one.
    ///
    /// # Errors
    /// open(2) fails.
    pub(crate) fn above(&self) -> io::Result<Self> {
        let fd = openat(&self.fd, "..", directory_flags(), Mode::empty())?;
        let path = match (self.path.parent(), self.path.file_name()) {
            (Some(above), Some(_)) => above.to_owned(),
            _ => self.path.join(".."),
        };
        Self::of(fd, path)
    }

    fn beside(
        &self,
        above: BorrowedFd<'_>,
        name: impl AsRef<OsStr>,
        path: PathBuf,
    ) -> io::Result<Self> {
        let flags = directory_flags() | OFlag::O_NOFOLLOW;
        let fd = match openat(above, name.as_ref(), flags, Mode::empty()) {
            // Linux returns ENOTDIR for a link, too (open(2), O_NOFOLLOW).
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(Refused::NoDirectory.into()),
            fd => fd?,
        };
        let opened = Self::of(fd, path)?;
        self.expects(opened.owner)?;
        Ok(opened)
    }

    /// Refuses what belongs to a user that could not have written the checkpoint.
    fn expects(&self, owner: u32) -> Result<(), Refused> {
        let expected = [0, self.owner, geteuid().as_raw()];
        match expected.contains(&owner) {
            true => Ok(()),
            false => Err(Refused::Owner(owner)),
        }
    }
}

impl AsFd for OpenedDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The name in `../NAME`, which is the only form of a parent's path: CRIU, runc and
/// Podman name an earlier checkpoint relative to the new one.
#[must_use]
pub fn sibling_name(target: &Path) -> Option<&OsStr> {
    let mut components = target.components();
    match (components.next(), components.next(), components.next()) {
        (Some(Component::ParentDir), Some(Component::Normal(name)), None) => Some(name),
        _ => None,
    }
}

/// Whether `name` is one plain component of a path.
pub(crate) fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.as_bytes().iter().any(|byte| b"/\0".contains(byte))
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK
}

/// The type bits of a mode.
pub(crate) fn kind(status: &FileStat) -> libc::mode_t {
    status.st_mode & libc::S_IFMT
}

#[cfg(test)]
mod tests;
