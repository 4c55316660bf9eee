//! The directories of bundles that the daemon makes.
//!
//! ```text
//! /var/lib/cedana/bundles/.lock     while a directory is made, or some are removed
//! /var/lib/cedana/bundles/ID/
//!   container.json                  runc's directory of containers; locked while a
//!   config.json                     restore uses the bundle
//!   rootfs/
//!   output.log
//! ```
//!
//! A directory is needed as long as runc has its container. So one without a container
//! and without a lock is removed: when the container is deleted ([`watch`]), and before
//! the next restore ([`sweep`]), for what was deleted while no daemon ran.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::{Failure, Kind};
use crate::sys;

const BUNDLES: &str = "/var/lib/cedana/bundles";

const CONTAINER: &str = "container.json";

/// The container of a bundle.
#[derive(Debug, Serialize, Deserialize)]
struct Container {
    id: String,
    root: PathBuf,
}

/// A directory of ours, locked. Dropping it removes it.
pub(super) struct Own {
    path: PathBuf,
    container: PathBuf,
    _lock: Flock<File>,
    kept: bool,
}

impl Own {
    /// Makes the directory of a container. `id` is one part of a path.
    ///
    /// # Errors
    /// There is one that is in use, or it can't be made.
    pub(super) fn create(id: &str, root: &Path) -> Result<Self, Failure> {
        Self::create_in(Path::new(BUNDLES), id, root)
    }

    fn create_in(bundles: &Path, id: &str, root: &Path) -> Result<Self, Failure> {
        let path = bundles.join(id);
        let failed = |error: io::Error| failed("make", &path, &error);
        let _lock = lock_all(bundles).map_err(failed)?;
        sweep_locked(bundles);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::new(
                    Kind::Exists,
                    format!(
                        "the bundle {} is in use by a container; delete the container, or take another ID",
                        path.display()
                    ),
                ));
            }
            made => made.map_err(failed)?,
        }
        let container = Container {
            id: id.to_owned(),
            root: root.to_owned(),
        };
        let lock = mark(&path, &container).map_err(|error| {
            let _ = fs::remove_dir_all(&path);
            failed(error)
        })?;
        Ok(Self {
            container: root.join(id),
            path,
            _lock: lock,
            kept: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A failure of the system.
    pub(super) fn failed(&self, what: &str, error: &io::Error) -> Failure {
        failed(what, &self.path, error)
    }

    /// Leaves the directory to its container.
    pub(super) fn keep(mut self) {
        self.kept = true;
        watch(self.container.clone());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.kept {
            // The next restore removes what can't be removed now.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
        _ => Kind::System,
    };
    let remedy = if kind == Kind::Full {
        "; make room"
    } else {
        ""
    };
    Failure::new(
        kind,
        format!(
            "cannot {what} the bundle {}: {error}{remedy}",
            path.display()
        ),
    )
}

/// Takes the lock of all bundles.
fn lock_all(bundles: &Path) -> io::Result<Flock<File>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(bundles)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(bundles.join(".lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Writes and locks the file that names the container.
fn mark(path: &Path, container: &Container) -> io::Result<Flock<File>> {
    let file = File::create_new(path.join(CONTAINER))?;
    serde_json::to_writer(&file, container)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Removes the bundles of containers that were deleted, and watches the others.
pub(crate) fn sweep() {
    let bundles = Path::new(BUNDLES);
    if bundles.is_dir()
        && let Ok(_lock) = lock_all(bundles)
    {
        for container in sweep_locked(bundles) {
            watch(container);
        }
    }
}

/// Removes the bundles of containers that were deleted. Returns the others' directories
/// in runc's.
fn sweep_locked(bundles: &Path) -> Vec<PathBuf> {
    let mut used = Vec::new();
    for entry in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        match user(&path) {
            User::Restore => {}
            User::Container(container) => used.push(container),
            User::None => {
                if let Err(error) = fs::remove_dir_all(&path) {
                    log::warn!("cannot remove the bundle {}: {error}", path.display());
                }
            }
        }
    }
    used
}

/// What uses a bundle.
enum User {
    Restore,
    Container(PathBuf),
    None,
}

fn user(path: &Path) -> User {
    // A daemon that was killed may have made the directory alone.
    let Ok(file) = File::open(path.join(CONTAINER)) else {
        return User::None;
    };
    let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        return User::Restore;
    };
    let container: Result<Container, _> = serde_json::from_reader(&*lock);
    match container.map(|container| container.root.join(container.id)) {
        Ok(container) if container.exists() => User::Container(container),
        _ => User::None,
    }
}

/// Waits until runc has deleted a container, then removes its bundle.
fn watch(container: PathBuf) {
    tokio::spawn(async move {
        if let Err(error) = deleted(&container).await {
            // The next restore removes the bundle.
            log::warn!("cannot watch {}: {error}", container.display());
            return;
        }
        let _ = tokio::task::spawn_blocking(|| {
            let bundles = Path::new(BUNDLES);
            if let Ok(_lock) = lock_all(bundles) {
                sweep_locked(bundles);
            }
        })
        .await;
    });
}

struct Removal(Inotify);

impl AsRawFd for Removal {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Returns when a directory is removed.
async fn deleted(path: &Path) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    match inotify.add_watch(path, AddWatchFlags::IN_DELETE_SELF) {
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        watched => watched?,
    };
    let inotify = sys::register_readable(Removal(inotify))?;
    while path.exists() {
        let mut ready = inotify.readable().await?;
        match inotify.get_ref().0.read_events() {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_stays_as_long_as_its_container() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (bundles, root) = (dir.path().join("bundles"), dir.path().join("runc"));
        let create = |id: &str| Own::create_in(&bundles, id, &root);
        let mut own = create("c").expect("made");
        let refused = create("c").err().expect("in use");
        assert_eq!(refused.kind, Kind::Exists);
        let path = own.path().to_owned();
        // What a restore leaves to its container.
        own.kept = true;
        fs::create_dir_all(root.join("c")).expect("mkdir");
        drop(own);
        assert_eq!(
            create("c").err().map(|refused| refused.kind),
            Some(Kind::Exists)
        );
        assert!(path.exists());
        fs::remove_dir(root.join("c")).expect("rmdir");
        fs::create_dir(bundles.join("half")).expect("mkdir");
        drop(create("d").expect("made"));
        let left: Vec<_> = fs::read_dir(&bundles).expect("list").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
