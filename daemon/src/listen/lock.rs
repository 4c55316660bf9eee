//! Locks that keep a second daemon away. The kernel drops them when the daemon ends,
//! however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;

/// Takes the lock of a socket or a directory, and holds it as long as the file is open.
///
/// # Errors
/// [`Error::InUse`], with the other daemon's process ID.
pub(crate) fn take(what: &'static str, of: &Path, file: PathBuf) -> Result<Flock<File>, Error> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file)
        .map_err(Error::file("create", &file))?;
    let mut lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut other, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let holder = match other.read_to_string(&mut pid) {
                Ok(1..) => format!(" (process {})", pid.trim()),
                _ => String::new(),
            };
            return Err(Error::InUse {
                what,
                path: of.to_owned(),
                holder,
            });
        }
        Err((_, errno)) => return Err(Error::file("lock", file)(errno.into())),
    };
    // For the message above only.
    let _ = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_learns_which_one_is_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("lock");
        let first = take("the socket", Path::new("/s"), file.clone()).expect("the lock");
        let error = take("the socket", Path::new("/s"), file.clone()).expect_err("in use");
        let text = error.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        drop(first);
        take("the socket", Path::new("/s"), file).expect("the lock again");
    }
}
