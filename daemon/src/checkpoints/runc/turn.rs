//! One restore at a time for each container.
//!
//! Two restores of one ID would make the same directory of the runtime and the same
//! bundle, and the one that fails would undo what the other has made.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::{Failure, Kind};

/// The directories of the containers that are being restored.
static TAKEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn all() -> MutexGuard<'static, HashSet<PathBuf>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to restore a container, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(PathBuf);

impl Turn {
    /// Takes the turn of a container in a directory of the runtime.
    ///
    /// # Errors
    /// Another restore of the container has not come to its end.
    pub(super) fn take(root: &Path, id: &str) -> Result<Self, Failure> {
        let key = canonical(root).join(id);
        match all().insert(key.clone()) {
            true => Ok(Self(key)),
            false => Err(Failure::new(
                Kind::Exists,
                format!(
                    "a container {id} is being restored in {} already; wait for it, or take another ID",
                    root.display()
                ),
            )),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        all().remove(&self.0);
    }
}

/// The path without symbolic links. Its last parts need not exist: runc makes them.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => canonical(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_restore_is_refused_until_the_first_has_ended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (root, link) = (dir.path().join("root"), dir.path().join("link"));
        std::fs::create_dir(&root).expect("mkdir");
        std::os::unix::fs::symlink(&root, &link).expect("a link");
        for (first, same) in [
            (root.clone(), link.clone()),
            // Neither exists yet.
            (root.join("new/runc"), link.join("./new//runc/")),
        ] {
            let turn = Turn::take(&first, "c").expect("the first");
            let refused = Turn::take(&same, "c").expect_err("the second");
            assert_eq!(refused.kind, Kind::Exists);
            Turn::take(&same, "d").expect("another ID");
            drop(turn);
            Turn::take(&same, "c").expect("again");
        }
    }
}
