//! Files that a user could have replaced, opened with the user's rights.
//!
//! CRIU opens recorded paths as root. The user may own a directory on the way and put a
//! link to another file there, at any moment until CRIU has opened the path. So each file
//! on such a path is opened here, as the user: the kernel decides what the user may open.
//! CRIU takes the descriptor in place of the path (`inherit_fd`, by the path without
//! its first slash; criu/files.c, `inherited_fd`).
//!
//! ```text
//! path ── O_PATH, no links ─► type, size, file system ── /proc/self/fd ─► the descriptor
//! ```
//!
//! The first step opens nothing, so that a FIFO or a device in a file's place has no
//! effect. The kernel records paths without links. A link could lead to the files of this
//! process in proc, which the kernel opens for each of its threads, whatever their user.
//!
//! CRIU restores no position of such a descriptor, so it is set here. And it gives the
//! same one to all descriptors of the path, so a path that is open in several ways or
//! several times is refused.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use cedana_checkpoint::format::contents::Contents;
use cedana_checkpoint::precheck::{OpenFile, check_user, names_process};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2};
use nix::libc;
use nix::sys::statfs::{FUSE_SUPER_MAGIC, PROC_SUPER_MAGIC, fstatfs, statfs};

use crate::owner::Owner;

/// The flags that a descriptor keeps (open(2)). Those that make or empty a file are not
/// among them.
const KEPT: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECTORY
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | libc::O_NOATIME;

/// The mode bits of directories that others than the owner can write to.
const OTHERS_WRITE: u32 = 0o022;

/// Devices that are the same for all users (devices.txt of the kernel): null, zero, full,
/// random, urandom, tty and ptmx.
const COMMON: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

/// Checks a user's checkpoint, and opens its files but those for which the caller has
/// given descriptors, by CRIU's keys.
///
/// # Errors
/// The reason against it.
pub(super) fn open(
    images: &Contents,
    owner: &Owner,
    is_given: impl Fn(&str) -> bool,
) -> Result<Vec<(String, OwnedFd)>, String> {
    let found = check_user(images, &owner.as_user()).map_err(|error| error.to_string())?;
    if !found.refusals.is_empty() {
        let texts: Vec<String> = found.refusals.iter().map(ToString::to_string).collect();
        return Err(texts.join("; "));
    }
    let mut opened = Vec::new();
    for (path, records) in &found.files {
        let key = key(path);
        if is_given(key) || is_roots(Path::new(path)) {
            continue;
        }
        let file = OpenFile::one(records)
            .map_err(|why| format!("{path} {why}, which CRIU can only restore as root"))?;
        let open = owner.act(|| open_file(Path::new(path), file));
        let open =
            open.map_err(|error| format!("user {} cannot open {path}: {error}", owner.uid))?;
        opened.push((key.to_owned(), open));
    }
    Ok(opened)
}

/// CRIU's key of a file with a plain path (criu/files-reg.c, `collect_one_regfile`).
fn key(path: &str) -> &str {
    match path {
        "/" => ".",
        path => path.strip_prefix('/').unwrap_or(path),
    }
}

fn open_file(path: &Path, file: &OpenFile) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let found = match openat2(AT_FDCWD, path, how) {
        Err(Errno::ELOOP) => return Err(io::Error::other("it is behind a symbolic link now")),
        found => File::from(found?),
    };
    let status = found.metadata()?;
    check(&status, file)?;
    if fstatfs(&found)?.filesystem_type() == PROC_SUPER_MAGIC {
        return Err(io::Error::other("it is in proc now"));
    }
    let flags = file.flags.cast_signed();
    if flags & libc::O_PATH != 0 {
        return Ok(found.into());
    }
    let mut open = reopen(&found, flags & KEPT)?;
    if status.is_file() && file.position > 0 {
        open.seek(SeekFrom::Start(file.position))?;
    }
    Ok(open.into())
}

/// Refuses another file than that of the checkpoint, as CRIU does.
fn check(status: &Metadata, file: &OpenFile) -> io::Result<()> {
    let kind = |mode: u32| mode & libc::S_IFMT;
    if !status.is_file() && !status.is_dir() {
        return Err(io::Error::other("it is not a file or a directory"));
    }
    if file
        .mode
        .is_some_and(|mode| kind(mode) != kind(status.mode()))
    {
        return Err(io::Error::other(
            "it is of another type than at the checkpoint",
        ));
    }
    match file.size {
        Some(size) if status.is_file() && size != status.size() => Err(io::Error::other(format!(
            "it has {} bytes but had {size} at the checkpoint",
            status.size()
        ))),
        _ => Ok(()),
    }
}

/// Opens a file that was looked up. It does not wait for the holder of a lease (fcntl(2)).
fn reopen(found: &File, flags: i32) -> io::Result<File> {
    let access = flags & libc::O_ACCMODE;
    let open = File::options()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags & !libc::O_ACCMODE | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    if flags & libc::O_NONBLOCK == 0 {
        let now = OFlag::from_bits_retain(fcntl(&open, FcntlArg::F_GETFL)?);
        fcntl(&open, FcntlArg::F_SETFL(now - OFlag::O_NONBLOCK))?;
    }
    Ok(open)
}

/// Whether only root can change what a path leads to: it has no link, and each directory
/// on it is root's and not writable by others. A sticky directory doesn't count: root may
/// remove its file there, and the user take the name.
///
/// A user's FUSE mount can show any owner. A process's directory in proc is another
/// process's when the ID has been taken again, and terminals have numbers that are taken
/// again, too.
fn is_roots(path: &Path) -> bool {
    let mut at = PathBuf::new();
    let mut last: Option<Metadata> = None;
    for component in path.components() {
        let may_change = |above: &Metadata| above.uid() != 0 || above.mode() & OTHERS_WRITE != 0;
        if last.as_ref().is_some_and(may_change) {
            return false;
        }
        at.push(component);
        let Ok(status) = fs::symlink_metadata(&at) else {
            return false;
        };
        if status.uid() != 0 || status.is_symlink() || is_users(&at, component) {
            return false;
        }
        last = Some(status);
    }
    path.is_absolute() && last.is_some_and(|last| is_common(&last))
}

/// Whether a user's program or process shows the file, by its file system.
fn is_users(path: &Path, name: Component<'_>) -> bool {
    let Ok(system) = statfs(path).map(|system| system.filesystem_type()) else {
        return true;
    };
    let name = name.as_os_str().to_str();
    system == FUSE_SUPER_MAGIC || (system == PROC_SUPER_MAGIC && name.is_none_or(names_process))
}

/// Whether it is a file, a directory, or a device that is the same for all users.
fn is_common(status: &Metadata) -> bool {
    let device = (libc::major(status.rdev()), libc::minor(status.rdev()));
    status.is_file()
        || status.is_dir()
        || (status.file_type().is_char_device() && COMMON.contains(&device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn record(flags: i32, size: Option<u64>) -> OpenFile {
        OpenFile {
            flags: flags.cast_unsigned(),
            position: 0,
            size,
            mode: Some(libc::S_IFREG | 0o644),
            is_description: true,
        }
    }

    #[track_caller]
    fn refused(path: &Path, file: &OpenFile) -> String {
        open_file(path, file).expect_err("refused").to_string()
    }

    #[test]
    fn paths_of_root_alone_are_told_apart() {
        for path in ["/", "/etc", "/dev/null", "/proc", "/proc/meminfo"] {
            assert!(is_roots(Path::new(path)), "{path}");
        }
        for path in ["/proc/self", "/proc/1", "/proc/1/status", "etc", "/tmp/x"] {
            assert!(!is_roots(Path::new(path)), "{path}");
        }
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/run").expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").expect("write");
        symlink("file", at("link")).expect("symlink");
        assert!(is_roots(&at("file")));
        assert!(!is_roots(&at("link")) && !is_roots(&at("missing")));
        fs::create_dir(at("users")).expect("mkdir");
        fs::write(at("users/file"), "x").expect("write");
        std::os::unix::fs::chown(at("users"), Some(12345), None).expect("chown");
        assert!(!is_roots(&at("users/file")));
        let sticky = tempfile::NamedTempFile::new_in("/tmp").expect("file");
        assert!(!is_roots(sticky.path()));
    }

    #[test]
    fn files_are_opened_where_they_were() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        fs::write(&path, "content").expect("write");
        let file = OpenFile {
            position: 4,
            ..record(libc::O_RDWR | libc::O_TRUNC, Some(7))
        };
        let mut open = File::from(open_file(&path, &file).expect("open"));
        assert_eq!(open.stream_position().expect("position"), 4);
        let flags = fcntl(&open, FcntlArg::F_GETFL).expect("flags");
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        assert_eq!(fs::read(&path).expect("read"), b"content");
        let error = refused(&path, &record(libc::O_RDWR, Some(8)));
        assert!(error.contains("had 8"), "{error}");
        open_file(&path, &record(libc::O_PATH, Some(7))).expect("a path");
    }

    #[test]
    fn another_file_in_its_place_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        // Opening it would wait for a writer.
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let error = refused(&at("fifo"), &record(libc::O_RDONLY, None));
        assert!(error.contains("not a file"), "{error}");
        fs::create_dir(at("directory")).expect("mkdir");
        let error = refused(&at("directory"), &record(libc::O_RDONLY, None));
        assert!(error.contains("another type"), "{error}");
        // Each thread of this process may open its memory.
        symlink("/proc/self/mem", at("link")).expect("symlink");
        let error = refused(&at("link"), &record(libc::O_RDWR, Some(0)));
        assert!(error.contains("symbolic link"), "{error}");
        let own = format!("/proc/{}/mem", std::process::id());
        let error = refused(Path::new(&own), &record(libc::O_RDWR, Some(0)));
        assert!(error.contains("in proc"), "{error}");
    }

    #[test]
    fn keys_are_those_of_criu() {
        assert_eq!(key("/"), ".");
        assert_eq!(key("/home/user/file"), "home/user/file");
    }
}
