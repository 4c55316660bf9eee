//! A user on whose behalf files are opened and made.
//!
//! This process is root, and its caller may not be. A path that the caller names is
//! opened with the caller's rights, so the kernel decides: a thread takes the caller's
//! credentials, opens, and ends. The system calls are made directly, because the C
//! library would change all threads.

use std::io;
use std::thread;

use cedana_checkpoint::precheck::User;
use nix::errno::Errno;
use nix::libc;

/// A user with all groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Owner {
    /// Root, with all rights.
    pub const ROOT: Self = Self {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    /// Whether it is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Calls `act` with this user's credentials: for root with this process's own.
    ///
    /// # Errors
    /// That of `act`, or the credentials can't be taken.
    pub fn act<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.is_root() {
            return act();
        }
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.become_it()?;
                act()
            });
            let ended = |_| io::Error::other("a thread panicked");
            thread.join().map_err(ended)?
        })
    }

    /// This user for a check of a checkpoint's credentials.
    pub(crate) fn as_user(&self) -> User {
        User {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        }
    }

    /// Changes the calling thread's credentials for good.
    fn become_it(&self) -> io::Result<()> {
        let (uid, gid) = (self.uid, self.gid);
        let groups = self.groups.as_ptr();
        // SAFETY: setgroups reads `groups.len()` numbers, which `self` holds; the others
        // take numbers. The raw calls change this thread alone, which is not reused.
        unsafe {
            Errno::result(libc::syscall(
                libc::SYS_setgroups,
                self.groups.len(),
                groups,
            ))?;
            Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            // The real and the saved user stay root's: with them the user could send the
            // thread a signal, which ends this process (kill(2)). The effective one decides
            // about files, and without it the thread has no capability in effect.
            Errno::result(libc::syscall(libc::SYS_setresuid, 0, uid, 0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn files_are_opened_and_made_as_the_user() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let secret = dir.path().join("secret");
        fs::write(&secret, "x").expect("write");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
        let user = Owner {
            uid: 12345,
            gid: 12346,
            groups: vec![12347],
        };
        let refused = user.act(|| File::open(&secret)).expect_err("a secret");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        File::open(&secret).expect("this thread is root");
        let made = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::chown(made.path(), Some(12345), None).expect("chown");
        let file = user.act(|| File::create(made.path().join("file")));
        let meta = file.expect("made").metadata().expect("status");
        assert_eq!((meta.uid(), meta.gid()), (12345, 12346));
    }
}
