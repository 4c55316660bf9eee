//! Opening of files in a checkpoint's directory.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::{OpenedDir, Part, Refused, is_plain, kind};

impl OpenedDir {
    /// Opens a file for reading: a regular one with one link and an expected owner, or
    /// an archive's.
    ///
    /// # Errors
    /// It is missing, refused ([`Refused`]), or can't be opened.
    pub(crate) fn file(&self, name: &str) -> io::Result<Part> {
        if !is_plain(name) {
            return Err(Refused::NotRegular.into());
        }
        if let Some(archive) = &self.archive {
            return archive.part(name);
        }
        // The first look keeps a device from being opened, which could change it. The
        // second counts, because it is of the opened file.
        self.accepts(&fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)?;
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::ELOOP) => return Err(Refused::Link.into()),
            file => File::from(file?),
        };
        self.accepts(&fstat(&file)?)?;
        Ok(file.into())
    }

    fn accepts(&self, status: &FileStat) -> Result<(), Refused> {
        match kind(status) {
            libc::S_IFREG => {}
            libc::S_IFLNK => return Err(Refused::Link),
            _ => return Err(Refused::NotRegular),
        }
        if status.st_nlink != 1 {
            #[allow(clippy::unnecessary_cast, reason = "its type differs by architecture")]
            return Err(Refused::HardLinks(status.st_nlink as u64));
        }
        self.expects(status.st_uid)
    }
}

/// Opens a file by its path, by the rules for files in a checkpoint's directory.
///
/// # Errors
/// As for [`OpenedDir::file`].
pub(crate) fn open_file(path: &Path) -> io::Result<Part> {
    let name = path.file_name().and_then(|name| name.to_str());
    let dir = OpenedDir::open(path.parent().unwrap_or(Path::new("/")))?;
    dir.file(name.unwrap_or_default())
}
