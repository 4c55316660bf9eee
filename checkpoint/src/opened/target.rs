//! The check of a directory that a checkpoint is written to.
//!
//! A checkpoint holds the application's secrets, and CRIU writes it by path. So no
//! other user may write to the directory, nor replace it in the directory above.

use std::io;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::geteuid;

use super::OpenedDir;

/// The reason not to write a checkpoint to a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Insecure {
    /// It belongs to another user.
    #[error("the directory {} belongs to user {owner}, who could read and change the checkpoint; give it to root (chown 0 {}), or choose another directory", dir.display(), dir.display())]
    Owner {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Other users can write to it.
    #[error("other users can write to the directory {} (mode {mode:04o}), and could change the checkpoint; forbid it (chmod go-w {}), or choose another directory", dir.display(), dir.display())]
    Writable {
        /// The directory.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Other users can replace it.
    #[error("other users can replace the directory {}, because they can write to the one above (mode {mode:04o}); forbid it (chmod o-w or chmod +t {}), or choose another directory", dir.display(), above.display())]
    Replaceable {
        /// The directory.
        dir: PathBuf,
        /// The directory above.
        above: PathBuf,
        /// The mode of the directory above.
        mode: u32,
    },
}

impl OpenedDir {
    /// Whether only root and this process's user can change the directory's entries and
    /// replace the directory. `Ok(Some)` is the reason against it.
    ///
    /// The owner of the directory above is trusted: an administrator who writes a
    /// checkpoint below a user's home directory has chosen that.
    ///
    /// # Errors
    /// A status can't be read.
    pub(crate) fn insecure(&self) -> io::Result<Option<Insecure>> {
        let above = self.above()?;
        Ok(judge(
            &self.path,
            &fstat(self)?,
            &fstat(&above)?,
            geteuid().as_raw(),
        ))
    }
}

fn judge(path: &Path, status: &FileStat, above: &FileStat, user: u32) -> Option<Insecure> {
    let dir = path.to_owned();
    let owner = status.st_uid;
    let mode = status.st_mode & 0o7777;
    if owner != 0 && owner != user {
        return Some(Insecure::Owner { dir, owner });
    }
    if mode & (libc::S_IWGRP | libc::S_IWOTH) != 0 {
        return Some(Insecure::Writable { dir, mode });
    }
    let mode = above.st_mode & 0o7777;
    let replaceable = mode & libc::S_IWOTH != 0 && mode & libc::S_ISVTX == 0;
    replaceable.then(|| Insecure::Replaceable {
        above: path.parent().unwrap_or(path).to_owned(),
        dir,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn a_directory_that_others_can_change_or_replace_is_insecure() {
        let above = tempfile::tempdir().expect("tempdir");
        let dir = above.path().join("checkpoint");
        fs::create_dir(&dir).expect("mkdir");
        for (above_mode, mode, expected) in [
            (0o700, 0o700, None),
            (0o755, 0o755, None),
            (0o1777, 0o700, None),
            (0o775, 0o700, None),
            (0o755, 0o770, Some("chmod go-w")),
            (0o755, 0o1777, Some("chmod go-w")),
            (0o777, 0o700, Some("chmod +t")),
        ] {
            chmod(above.path(), above_mode);
            chmod(&dir, mode);
            let found = OpenedDir::open(&dir).expect("open").insecure();
            let found = found.expect("status").map(|why| why.to_string());
            let what = format!("{mode:o} in {above_mode:o}: {found:?}");
            match (expected, found) {
                (None, None) => {}
                (Some(advice), Some(found)) => {
                    assert!(found.contains(advice), "{what}");
                    assert!(found.contains(&*dir.to_string_lossy()), "{what}");
                }
                _ => panic!("{what}"),
            }
        }
    }

    #[test]
    fn only_root_and_the_user_may_own_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        chmod(dir.path(), 0o700);
        let mut status = fstat(OpenedDir::open(dir.path()).expect("open")).expect("status");
        let above = fstat(OpenedDir::open(Path::new("/")).expect("open")).expect("status");
        for (owner, user, fine) in [(0, 0, true), (5, 5, true), (0, 5, true), (5, 0, false)] {
            status.st_uid = owner;
            let found = judge(dir.path(), &status, &above, user);
            assert_eq!(found.is_none(), fine, "{owner} for {user}: {found:?}");
        }
    }
}
