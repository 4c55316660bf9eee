//! Where a checkpoint goes: whole, or not at all.
//!
//! ```text
//! Archive    an unnamed file (O_TMPFILE) of the owner ─ synced ─► linked: NAME_TIME.tar
//! Directory  a staging directory                      ─ synced ─► renamed (format::publish)
//! ```
//!
//! An archive's directory may be its owner's. It is opened, and the file made, with the
//! owner's rights ([`crate::Owner`]). CRIU's own files are in a hidden directory beside it
//! that is root's alone ([`Scratch`]). A file system without unnamed files gets a hidden
//! one, whose lock tells it from the leftover of a killed command. It is root's until it is
//! complete, because its name lets the owner open it: whose memory the archive has is
//! checked at the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use cedana_checkpoint::format::publish::{Durability, Scratch, Staging};
use cedana_checkpoint::host::procfs;
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::output::timestamp;
use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use time::OffsetDateTime;

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

/// What the names of hidden archives begin with.
const HIDDEN: &str = ".cedana-part-";

/// The longest beginning of a name: with a time and an ending it is a file's name.
const MAX_NAME: usize = 200;

/// A place that is prepared for one attempt.
pub(crate) enum Destination {
    Directory(Box<Staging>),
    Archive(Box<NewArchive>),
}

/// An archive that is being written.
pub(crate) struct NewArchive {
    pub(crate) file: File,
    pub(crate) shown: PathBuf,
    pub(crate) scratch: Scratch,
    dir: OwnedFd,
    name: String,
    owner: Owner,
    /// The name of a hidden file, and its lock.
    hidden: Option<Hidden>,
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
                let open = || owner.act(|| open(dir));
                let (opened, above) = (open().map_err(failed)?, open().map_err(failed)?);
                let (file, hidden) = match owner.act(|| unnamed(&opened)).map_err(failed)? {
                    Some(file) => (file, None),
                    None => {
                        let (file, hidden) = make_hidden(&opened, owner).map_err(failed)?;
                        (file, Some(hidden))
                    }
                };
                let above = OpenedDir::of_file(File::from(above), dir).map_err(failed)?;
                let scratch = Scratch::create(above);
                let scratch = scratch.map_err(|source| Error::Publish { pid, source })?;
                let time = timestamp::compact(OffsetDateTime::now_utc());
                let name = format!("{}_{time}.tar", file_name(name));
                Ok(Self::Archive(Box::new(NewArchive {
                    file,
                    shown: dir.join(&name),
                    scratch,
                    dir: opened,
                    name,
                    owner: owner.clone(),
                    hidden,
                })))
            }
        }
    }

    /// The directory that CRIU writes to.
    pub(crate) fn images(&self) -> PathBuf {
        match self {
            Self::Directory(staging) => staging.place().to_owned(),
            Self::Archive(archive) => archive.scratch.path(),
        }
    }
}

impl NewArchive {
    /// Syncs the archive and gives it its name. Returns its path.
    pub(crate) fn publish(self) -> io::Result<PathBuf> {
        if self.hidden.is_some() && !self.owner.is_root() {
            fchown(&self.file, Some(self.owner.uid), Some(self.owner.gid))?;
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
        if let Some((hidden, _)) = &self.hidden {
            unlinkat(&self.dir, hidden.as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        fsync(&self.dir)?;
        Ok(shown)
    }
}

impl Drop for NewArchive {
    fn drop(&mut self) {
        if let Some((name, _)) = &self.hidden {
            // Published, it has no hidden name any more.
            let _ = unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
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
    let opened = target.owner().act(|| open(&path))?;
    let status = fstatvfs(&opened)?;
    Ok((
        path,
        status
            .blocks_available()
            .saturating_mul(status.fragment_size()),
    ))
}

fn open(dir: &Path) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    Ok(file.into())
}

type Hidden = (String, Option<Flock<File>>);

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

/// Makes a hidden file, which is root's. The owner makes one and removes it first, which
/// asks the kernel whether the owner may.
fn make_hidden(dir: &OwnedFd, owner: &Owner) -> io::Result<(File, Hidden)> {
    remove_parts(dir)?;
    owner.act(|| {
        let (_, name) = create(dir)?;
        Ok(unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir)?)
    })?;
    let (file, name) = create(dir)?;
    let lock = file.try_clone()?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).ok();
    Ok((file, (name, lock)))
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

/// A name that is one plain component of a path.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(MAX_NAME)
        .collect();
    match name.trim_start_matches('.') {
        "" => "process".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn archive(dir: &Path) -> NewArchive {
        let target = Target::Archive {
            dir: dir.to_owned(),
            owner: Owner::ROOT,
        };
        match Destination::prepare(Pid::own(), &target, "a b/c") {
            Ok(Destination::Archive(archive)) => *archive,
            _ => panic!("no archive"),
        }
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
        std::os::unix::fs::chown(dir.path(), Some(12345), None).expect("chown");
        let owner = Owner {
            uid: 12345,
            gid: 12346,
            groups: Vec::new(),
        };
        let mut new = archive(dir.path());
        let opened = open(dir.path()).expect("open");
        // The leftover of a killed command, and one of another command that runs.
        std::fs::write(dir.path().join(".cedana-part-1-0"), "x").expect("write");
        let (_other, (name, lock)) = make_hidden(&opened, &Owner::ROOT).expect("made");
        assert!(lock.is_some());
        let (file, hidden) = make_hidden(&opened, &owner).expect("made");
        let status = file.metadata().expect("status");
        assert_eq!((status.uid(), status.mode() & 0o777), (0, 0o600));
        (new.file, new.hidden, new.owner) = (file, Some(hidden), owner.clone());
        let path = new.publish().expect("publish");
        let status = path.metadata().expect("status");
        assert_eq!((status.uid(), status.gid()), (12345, 12346));
        assert_eq!(status.mode() & 0o7777, 0o600);
        let hidden = |name: &String| name.starts_with(HIDDEN);
        let left: Vec<String> = names(dir.path()).into_iter().filter(hidden).collect();
        assert_eq!(left, [name]);
        let other = tempfile::tempdir().expect("tempdir");
        let opened = open(other.path()).expect("open");
        let refused = make_hidden(&opened, &owner)
            .map(|_| ())
            .expect_err("not the owner's");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(file_name("redis-server"), "redis-server");
        assert_eq!(file_name("../x y"), "_x_y");
        assert_eq!(file_name("..."), "process");
        assert!(file_name(&"a".repeat(300)).len() <= MAX_NAME);
    }
}
