//! A new file that appears whole, under a name that no other file has.
//!
//! ```text
//! an unnamed file (O_TMPFILE) ─ written, synced ─► linked
//! ```
//!
//! The directory may be a user's: [`FilePlace::open`] opens it and makes the file with the
//! rights of the calling thread. A file system without unnamed files gets a hidden one,
//! whose lock tells it from the leftover of a killed command. It is this process's until it
//! is complete, because its name lets its owner open it, and then the owner's.

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

use super::error::{Error, at};
use crate::host::procfs;

/// What the names of hidden files begin with.
const HIDDEN: &str = ".cedana-part-";

type Hidden = (String, Option<Flock<File>>);

/// An open directory with an empty file.
#[derive(Debug)]
pub struct FilePlace {
    pub(super) shown: PathBuf,
    dir: OwnedFd,
    /// `None` on a file system without unnamed files.
    pub(super) file: Option<File>,
}

/// A file that is being written. Dropping it before it is published removes it.
#[derive(Debug)]
pub struct NewFile {
    pub(super) file: File,
    /// The directory's path.
    shown: PathBuf,
    dir: OwnedFd,
    owner: Option<(u32, u32)>,
    /// The name of a hidden file, and its lock.
    hidden: Option<Hidden>,
}

/// What becomes of a name that another file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The new file gets a number, `NAME-2.tar`.
    Number,
    /// The new file is not published.
    Refuse,
}

impl FilePlace {
    /// Opens a directory, and makes a file of mode 0600 in it that has no name yet. Links
    /// in the path, which the caller chose, are followed.
    ///
    /// # Errors
    /// The directory can't be opened or written to.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let opened = open_directory(dir)?;
        let file = unnamed(&opened)?;
        if file.is_none() {
            // This asks the kernel whether the caller may.
            let (_, name) = create(&opened)?;
            unlinkat(&opened, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(Self {
            shown: dir.to_owned(),
            dir: opened,
            file,
        })
    }
}

impl NewFile {
    /// Begins a file. `owner` is the user and the group that it will belong to, if not to
    /// this process.
    ///
    /// # Errors
    /// A hidden file can't be made.
    pub fn begin(place: FilePlace, owner: Option<(u32, u32)>) -> Result<Self, Error> {
        let FilePlace { shown, dir, file } = place;
        let (file, hidden) = match file {
            Some(file) => (file, None),
            None => {
                let (file, hidden) = make_hidden(&dir).map_err(at("write to", &shown))?;
                (file, Some(hidden))
            }
        };
        Ok(Self {
            file,
            shown,
            dir,
            owner,
            hidden,
        })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs the file and gives it a name in its directory, whose ending after the last dot
    /// stays if it gets a number. Returns its path.
    ///
    /// # Errors
    /// It can't be synced or linked; the name is taken. Then it has no name.
    pub fn publish(&mut self, name: &str, taken: Taken) -> io::Result<PathBuf> {
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
        let (stem, ending) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        let mut name = name.to_owned();
        let mut again = 2;
        loop {
            // Another file of this name is not replaced.
            match linkat(above, &from, &self.dir, name.as_str(), flag) {
                Err(Errno::EEXIST) if taken == Taken::Number && again < 100 => {
                    name = format!("{stem}-{again}{ending}");
                    again += 1;
                }
                linked => break linked?,
            }
        }
        if let Some((hidden, _)) = self.hidden.take() {
            unlinkat(&self.dir, hidden.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        let path = self.shown.join(name);
        if let Err(error) = fsync(&self.dir) {
            self.withdraw(&path);
            return Err(error.into());
        }
        Ok(path)
    }

    /// Removes the file again that was published at `path`, because something that belongs
    /// to it failed.
    pub fn withdraw(&self, path: &Path) {
        if let Some(name) = path.file_name() {
            // That failure is reported.
            let _ = unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

impl Drop for NewFile {
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

/// A new file can be read and written by its owner alone.
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

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("list").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_name_that_is_taken_is_numbered_or_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("a.b.tar"), "another").expect("write");
        let begin = || {
            let place = FilePlace::open(dir.path()).expect("open");
            NewFile::begin(place, None).expect("begin")
        };
        let mut new = begin();
        new.file.write_all(b"content").expect("write");
        let refused = new.publish("a.b.tar", Taken::Refuse).expect_err("taken");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(dir.path()), ["a.b.tar"]);
        let path = new.publish("a.b.tar", Taken::Number).expect("publish");
        assert_eq!(path, dir.path().join("a.b-2.tar"));
        assert_eq!(std::fs::read(&path).expect("read"), b"content");
        drop((new, begin()));
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn a_hidden_file_is_the_owner_s_when_it_is_whole() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        // The leftover of a killed command, and one of another command that runs.
        std::fs::write(dir.path().join(".cedana-part-1-0"), "x").expect("write");
        let opened = open_directory(dir.path()).expect("open");
        let (_other, (name, lock)) = make_hidden(&opened).expect("made");
        assert!(lock.is_some());
        let mut place = FilePlace::open(dir.path()).expect("open");
        place.file = None;
        let owner = Some((12345, 12346));
        let mut new = NewFile::begin(place, owner).expect("begin");
        let status = new.file.metadata().expect("status");
        assert_eq!((status.uid(), status.mode() & 0o777), (0, 0o600));
        let path = new.publish("job.tar", Taken::Refuse).expect("publish");
        let status = path.metadata().expect("status");
        assert_eq!((status.uid(), status.gid()), (12345, 12346));
        assert_eq!(status.mode() & 0o7777, 0o600);
        drop(new);
        let hidden = |name: &String| name.starts_with(HIDDEN);
        let left: Vec<String> = names(dir.path()).into_iter().filter(hidden).collect();
        assert_eq!(left, [name]);
    }
}
