//! A checkpoint's archive as a directory of its files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use nix::sys::stat::fstat;

use super::{OpenedDir, Part, Refused, kind};
use crate::archive::Index;

/// An open archive.
#[derive(Debug)]
pub(super) struct OpenedArchive {
    file: Arc<File>,
    index: Index,
}

impl OpenedArchive {
    pub(super) fn part(&self, name: &str) -> io::Result<Part> {
        let (start, length) = self.index.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Part::of(Arc::clone(&self.file), start, length))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.index.names().map(str::to_owned).collect()
    }

    pub(super) fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
        let names = self.index.names().filter(|name| wanted(name));
        names
            .filter_map(|name| Some((name.to_owned(), self.index.get(name)?.1)))
            .collect()
    }
}

impl OpenedDir {
    /// Opens a checkpoint: its directory or its archive. Links in `path`, which the
    /// caller chose, are followed.
    ///
    /// # Errors
    /// open(2) fails, or it is neither a directory nor a valid archive.
    pub fn open_any(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            // A FIFO would block its reader.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(path)?;
        Self::of_file(file, path)
    }

    /// A checkpoint that the caller has opened. `path` is for messages.
    ///
    /// # Errors
    /// It is neither a directory nor a valid archive.
    pub fn of_file(file: File, path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        match kind(&fstat(&file)?) {
            libc::S_IFDIR => Self::of(OwnedFd::from(file), path),
            libc::S_IFREG => {
                let index = Index::read(&file)?;
                let fd = OwnedFd::from(file.try_clone()?);
                let file = Arc::new(file);
                let archive = Some(OpenedArchive { file, index });
                let opened = Self::of(fd, path)?;
                Ok(Self { archive, ..opened })
            }
            _ => Err(Refused::NotRegular.into()),
        }
    }

    /// Whether it is an archive.
    #[must_use]
    pub fn is_archive(&self) -> bool {
        self.archive.is_some()
    }
}
