//! Files that a caller passed into a mount namespace, opened again within.
//!
//! A descriptor keeps the mount on which its file was opened. One of the caller's mount
//! namespace is not among the mounts of the restored process, and CRIU refuses the next
//! dump ("Can't lookup mount"). So init opens the same file by its path within, and puts
//! the new descriptor in place of the old one.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::dup2;

/// The lowest number of a descriptor that CRIU inherits: above those that it takes for
/// itself.
pub(crate) const INHERITED: i32 = 100;

/// Opens the inherited files, directories and terminals again. One that can't be opened
/// stays as it is: the restore succeeds with it.
pub(crate) fn inherited() {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Read before one is replaced: the listing has a descriptor, too.
    let numbers: Vec<i32> = numbers.filter(|number| *number >= INHERITED).collect();
    for number in numbers {
        let _ = again(number);
    }
}

fn again(number: i32) -> io::Result<()> {
    let link = PathBuf::from(format!("/proc/self/fd/{number}"));
    let was = fs::metadata(&link)?;
    let kind = was.mode() & libc::S_IFMT;
    if ![libc::S_IFREG, libc::S_IFDIR, libc::S_IFCHR].contains(&kind) {
        return Ok(());
    }
    let path = fs::read_link(&link)?;
    // Without an effect on the file, which may be another one.
    let found = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let is = found.metadata()?;
    if (is.dev(), is.ino()) != (was.dev(), was.ino()) {
        return Ok(());
    }
    // SAFETY: the number is that of a descriptor that this process inherited and that
    // nothing closes meanwhile; a copy is made of it.
    let old = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
    let mut old = File::from(old);
    let flags = fcntl(&old, FcntlArg::F_GETFL)?;
    let making = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOFOLLOW;
    let flags = OFlag::from_bits_retain(flags & !making | libc::O_NOCTTY | libc::O_CLOEXEC);
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let new = nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?;
    let mut new = File::from(new);
    if kind == libc::S_IFREG {
        new.seek(SeekFrom::Start(old.stream_position()?))?;
    }
    replace(number, &new)
}

/// Puts a descriptor in place of an inherited one, to be inherited by CRIU.
fn replace(number: i32, new: &File) -> io::Result<()> {
    // SAFETY: nothing owns the inherited number; it stays open for ever.
    let mut place = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(dup2(new, &mut place)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_file_is_opened_again_where_it_was() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(b"content").expect("write");
        let file = file.as_file_mut();
        file.seek(SeekFrom::Start(3)).expect("seek");
        let number = file.as_raw_fd();
        let before = fcntl(&*file, FcntlArg::F_GETFL).expect("flags");
        again(number).expect("again");
        assert_eq!(fcntl(&*file, FcntlArg::F_GETFL).expect("flags"), before);
        let mut rest = String::new();
        file.read_to_string(&mut rest).expect("read");
        assert_eq!(rest, "tent");
    }

    #[test]
    fn another_file_of_that_path_is_not_taken() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        fs::write(&path, "old").expect("write");
        let mut file = File::open(&path).expect("open");
        fs::remove_file(&path).expect("remove");
        fs::write(format!("{} (deleted)", path.display()), "new").expect("write");
        again(file.as_raw_fd()).expect("again");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "old");
    }
}
