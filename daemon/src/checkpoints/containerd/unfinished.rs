//! Marks of dumps that are not finished, for the case that the daemon is killed: a
//! container must not stay frozen.
//!
//! A mark is a file that its daemon holds locked. The kernel drops the lock when the
//! daemon ends, however it ends. A daemon that starts finishes the marks that have no
//! daemon any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::lease::Lease;
use super::{Container, task};
use crate::checkpoints::{Failure, Kind};

/// Where the marks are. They mean nothing after a restart of the machine.
const DIRECTORY: &str = "/run/cedana/containerd";

/// What a mark says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    id: String,
    namespace: String,
    address: PathBuf,
    lease: String,
}

/// A mark, to be removed by [`Mark::remove`].
pub(super) struct Mark {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Mark {
    /// Marks a container that is about to be frozen for a dump under a lease.
    pub(super) fn make(container: &Container, lease: &Lease) -> Result<Self, Failure> {
        let content = Content {
            id: container.id.clone(),
            namespace: container.namespace.clone(),
            address: container.address.clone(),
            lease: lease.id().to_owned(),
        };
        Self::write(Path::new(DIRECTORY), &content).map_err(|error| {
            Failure::new(
                Kind::System,
                format!("could not write a file in {DIRECTORY}: {error}"),
            )
        })
    }

    fn write(directory: &Path, content: &Content) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let path = directory.join(&content.lease);
        // Another daemon must not see it before it is locked.
        let draft = path.with_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let written = serde_json::to_vec(content)
            .map_err(io::Error::from)
            .and_then(|data| lock.write_all(&data))
            .and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        Ok(Self { path, _lock: lock })
    }

    /// Removes it: the container runs again, or has ended.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Finishes what daemons have left that were killed: their containers run on.
pub(crate) async fn finish() {
    for (mark, content) in left(Path::new(DIRECTORY)) {
        match content.finish().await {
            Ok(()) => {
                log::info!(
                    "container {} of containerd was being dumped when the daemon was killed, and runs on",
                    content.id
                );
                mark.remove();
            }
            Err(failure) => log::error!(
                "container {} of containerd may be frozen since the daemon was killed: {failure}",
                content.id
            ),
        }
    }
}

impl Content {
    async fn finish(&self) -> Result<(), Failure> {
        let container = Container {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            address: self.address.clone(),
        };
        let client = Client::of(&container).await?;
        task::let_run(&client, &self.id).await?;
        Lease::named(&self.lease).delete(&client, true).await;
        Ok(())
    }
}

/// The marks without a daemon, locked by this one.
fn left(directory: &Path) -> Vec<(Mark, Content)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let marks = entries.filter_map(|entry| {
        let path = entry.path();
        let file = File::open(&path).ok()?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        let mut text = String::new();
        lock.read_to_string(&mut text).ok()?;
        match serde_json::from_str(&text) {
            Ok(content) => Some((Mark { path, _lock: lock }, content)),
            Err(_) => {
                // A draft: its container has not been frozen yet.
                let _ = fs::remove_file(&path);
                None
            }
        }
    });
    marks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_left_when_its_daemon_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let content = Content {
            id: "test".into(),
            namespace: "default".into(),
            address: "/s".into(),
            lease: "cedana-1".into(),
        };
        let mark = Mark::write(directory.path(), &content).expect("written");
        assert!(left(directory.path()).is_empty());
        // As with the end of its daemon, the lock goes and the file stays.
        drop(mark);
        let mut found = left(directory.path());
        let (mark, read) = found.pop().expect("a mark");
        assert_eq!(read, content);
        mark.remove();
        assert!(left(directory.path()).is_empty());
    }

    #[test]
    fn a_draft_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let draft = directory.path().join("cedana-1.new");
        fs::write(&draft, "").expect("written");
        assert!(left(directory.path()).is_empty());
        assert!(!draft.exists());
    }
}
