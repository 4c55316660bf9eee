//! A new archive of a checkpoint: a file `NAME_DATETIME.tar` that appears whole.
//!
//! ```text
//! an unnamed file (O_TMPFILE) ─ written, synced ─► linked: NAME_DATETIME.tar
//! ```
//!
//! The directory may be a user's: [`ArchivePlace::open`] opens it and makes the file with
//! the rights of the calling thread. CRIU's own files are in a hidden directory beside it
//! that is this process's alone ([`Scratch`]). A file system without unnamed files gets a
//! hidden one, whose lock tells it from the leftover of a killed command. It is this
//! process's, too, until it is complete, because its name lets its owner open it: whose
//! memory the archive has is checked at the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use time::OffsetDateTime;

use super::error::{Error, at};
use super::scratch::Scratch;
use crate::host::procfs;
use crate::opened::OpenedDir;
use crate::output::file_name::file_name;
use crate::output::timestamp;

/// What the names of hidden archives begin with.
const HIDDEN: &str = ".cedana-part-";

type Hidden = (String, Option<Flock<File>>);

/// An open directory with an empty file for an archive.
#[derive(Debug)]
pub struct ArchivePlace {
    shown: PathBuf,
    dir: OwnedFd,
    above: OwnedFd,
    /// `None` on a file system without unnamed files.
    file: Option<File>,
}

/// An archive that is being written. Dropping it before [`NewArchive::publish`] removes
/// everything.
#[derive(Debug)]
pub struct NewArchive {
    file: File,
    shown: PathBuf,
    scratch: Scratch,
    dir: OwnedFd,
    name: String,
    owner: Option<(u32, u32)>,
    /// The name of a hidden file, and its lock.
    hidden: Option<Hidden>,
}

impl ArchivePlace {
    /// Opens a directory, and makes a file of mode 0600 in it that has no name yet. Links
    /// in the path, which the caller chose, are followed.
    ///
    /// # Errors
    /// The directory can't be opened or written to.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (opened, above) = (open_directory(dir)?, open_directory(dir)?);
        let file = unnamed(&opened)?;
        if file.is_none() {
            // This asks the kernel whether the caller may.
            let (_, name) = create(&opened)?;
            unlinkat(&opened, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(Self {
            shown: dir.to_owned(),
            dir: opened,
            above,
            file,
        })
    }
}

impl NewArchive {
    /// Begins an archive. `name` is the beginning of its name; what no file should have
    /// in its name is replaced. `owner` is the user and the group that the archive will
    /// belong to, if not to this process.
    ///
    /// # Errors
    /// There can be no directory for CRIU's files.
    pub fn begin(
        place: ArchivePlace,
        name: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        let ArchivePlace {
            shown,
            dir,
            above,
            file,
        } = place;
        let (file, hidden) = match file {
            Some(file) => (file, None),
            None => {
                let (file, hidden) = make_hidden(&dir).map_err(at("write to", &shown))?;
                (file, Some(hidden))
            }
        };
        let above = OpenedDir::of_file(File::from(above), &shown).map_err(at("open", &shown))?;
        let scratch = Scratch::create(above)?;
        let time = timestamp::compact(OffsetDateTime::now_utc());
        let name = format!("{}_{time}.tar", file_name(name));
        Ok(Self {
            file,
            shown: shown.join(&name),
            scratch,
            dir,
            name,
            owner,
            hidden,
        })
    }

    /// The file, for a capture.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The directory of CRIU's own files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The path that it will have, unless another file has it.
    #[must_use]
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Syncs the archive and gives it its name. Returns its path. CRIU's files stay until
    /// this is dropped.
    ///
    /// # Errors
    /// It can't be synced or linked. Then it has no name.
    pub fn publish(&mut self) -> io::Result<PathBuf> {
        if let (Some(_), Some((uid, gid))) = (&self.hidden, self.owner) {
            fchown(&self.file, Some(uid), Some(gid))?;
        }
        self.file.sync_all()?;
        let (from, above, flag) = match &self.hidden {
            Some((name, _)) => (PathBuf::from(name), self.dir.as_fd(), AtFlags::empty()),
            None => {
                let path = procfs::descriptor(&self.file);
                (path, AT_FDCWD.as_fd(), AtFlags::AT_SYMLINK_FOLLOW)
            }
        };
        let (stem, ending) = self.name.split_at(self.name.len() - ".tar".len());
        let mut shown = self.shown.clone();
        let mut name = self.name.clone();
        let mut again = 2;
        loop {
            // Another file of this name is not replaced.
            match linkat(above, &from, &self.dir, name.as_str(), flag) {
                Err(Errno::EEXIST) if again < 100 => {
                    name = format!("{stem}-{again}{ending}");
                    shown.set_file_name(&name);
                    again += 1;
                }
                linked => break linked?,
            }
        }
        if let Some((hidden, _)) = self.hidden.take() {
            unlinkat(&self.dir, hidden.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        fsync(&self.dir)?;
        Ok(shown)
    }
}

impl Drop for NewArchive {
    fn drop(&mut self) {
        if let Some((name, _)) = &self.hidden {
            // The next command removes what can't be removed now.
            let _ = unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Opens a directory.
///
/// # Errors
/// open(2) fails.
pub fn open_directory(dir: &Path) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    Ok(file.into())
}

/// A new archive can be read and written by its owner alone.
fn mode() -> Mode {
    Mode::S_IRUSR | Mode::S_IWUSR
}

/// Makes a file without a name; `None` if the file system has none.
fn unnamed(dir: &OwnedFd) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_TMPFILE;
    match openat(dir, ".", flags, mode()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a hidden file, and locks it.
fn make_hidden(dir: &OwnedFd) -> io::Result<(File, Hidden)> {
    remove_parts(dir)?;
    loop {
        let (file, name) = create(dir)?;
        let lock = file.try_clone()?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok();
        // Until it was locked, another command took it for a leftover.
        if file.metadata()?.nlink() > 0 {
            return Ok((file, (name, lock)));
        }
    }
}

/// Creates an empty hidden file.
fn create(dir: &OwnedFd) -> io::Result<(File, String)> {
    let flags =
        OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    for number in 0u64.. {
        let name = format!("{HIDDEN}{}-{number}", std::process::id());
        match openat(dir, name.as_str(), flags, mode()) {
            Err(Errno::EEXIST) => {}
            file => return Ok((File::from(file?), name)),
        }
    }
    unreachable!("the numbers do not end")
}

/// Removes the hidden files of commands that were killed.
fn remove_parts(dir: &OwnedFd) -> io::Result<()> {
    let mut entries = nix::dir::Dir::from_fd(dir.try_clone()?)?;
    let names: Vec<_> = entries
        .iter()
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.to_bytes().starts_with(HIDDEN.as_bytes()))
        .collect();
    for name in names {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = openat(dir, &*name, flags, Mode::empty()) else {
            continue;
        };
        if Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock).is_ok() {
            unlinkat(dir, &*name, UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn archive(dir: &Path) -> NewArchive {
        let place = ArchivePlace::open(dir).expect("open");
        NewArchive::begin(place, "a b/c", None).expect("begin")
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("list").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn an_archive_appears_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut new = archive(dir.path());
        new.file.write_all(b"content").expect("write");
        assert!(!names(dir.path()).iter().any(|name| name.ends_with(".tar")));
        new.name = "a_b_c_T.tar".to_owned();
        new.shown = dir.path().join(&new.name);
        std::fs::write(&new.shown, "another").expect("write");
        let path = new.publish().expect("publish");
        drop(new);
        assert_eq!(path, dir.path().join("a_b_c_T-2.tar"));
        assert_eq!(path.metadata().expect("status").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        assert_eq!(names(dir.path()).len(), 2);
        drop(archive(dir.path()));
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn a_hidden_archive_is_the_owner_s_when_it_is_whole() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        // The leftover of a killed command, and one of another command that runs.
        std::fs::write(dir.path().join(".cedana-part-1-0"), "x").expect("write");
        let opened = open_directory(dir.path()).expect("open");
        let (_other, (name, lock)) = make_hidden(&opened).expect("made");
        assert!(lock.is_some());
        let mut place = ArchivePlace::open(dir.path()).expect("open");
        place.file = None;
        let owner = Some((12345, 12346));
        let mut new = NewArchive::begin(place, "job", owner).expect("begin");
        let status = new.file.metadata().expect("status");
        assert_eq!((status.uid(), status.mode() & 0o777), (0, 0o600));
        let path = new.publish().expect("publish");
        let status = path.metadata().expect("status");
        assert_eq!((status.uid(), status.gid()), (12345, 12346));
        assert_eq!(status.mode() & 0o7777, 0o600);
        drop(new);
        let hidden = |name: &String| name.starts_with(HIDDEN);
        let left: Vec<String> = names(dir.path()).into_iter().filter(hidden).collect();
        assert_eq!(left, [name]);
    }
}
