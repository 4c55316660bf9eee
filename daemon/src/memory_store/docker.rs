//! Docker's checkpoints: `<data root>/containers/<container>/checkpoints/<name>`.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cedana_store::catalogue::CheckpointId;

use super::path::{At, look};

const CONTAINERS: &str = "containers";
const CHECKPOINTS: &str = "checkpoints";

/// What was found in a data root.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    found: HashSet<CheckpointId>,
    /// Why some of it could not be read.
    unread: Option<String>,
}

impl Root {
    /// Looks at all checkpoints of all containers.
    pub(super) fn scan(path: &Path) -> Self {
        let mut root = Self {
            path: path.to_owned(),
            found: HashSet::new(),
            unread: None,
        };
        match checkpoints(path) {
            Ok(paths) => paths.iter().for_each(|path| root.add(path)),
            Err((path, error)) => {
                root.unread = Some(format!("{} can't be read: {error}", path.display()));
            }
        }
        root
    }

    fn add(&mut self, path: &Path) {
        match look(path) {
            At::Checkpoint(id) => _ = self.found.insert(id),
            At::Unreadable(why) => self.unread = Some(why),
            // A stock runtime's, or removed meanwhile.
            At::Other | At::Nothing => {}
        }
    }

    /// Whether a checkpoint is there; why not all could be read.
    pub(super) fn has(&self, id: &CheckpointId) -> Result<bool, String> {
        match (self.found.contains(id), &self.unread) {
            (true, _) => Ok(true),
            (false, None) => Ok(false),
            (false, Some(why)) => Err(why.clone()),
        }
    }

    /// Whether Docker has a container.
    pub(super) fn has_container(&self, container: &str) -> bool {
        let path = self.path.join(CONTAINERS).join(container);
        // An error that is not that it is missing says nothing.
        !matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound)
    }
}

/// The directories of all checkpoints below a data root.
///
/// # Errors
/// A directory can't be read, or there is no data root. A container that is removed
/// meanwhile is left out.
pub(super) fn checkpoints(root: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let containers = root.join(CONTAINERS);
    let mut all = Vec::new();
    for container in entries(&containers).map_err(|error| (containers.clone(), error))? {
        let dir = container.join(CHECKPOINTS);
        match entries(&dir) {
            Ok(checkpoints) => all.extend(checkpoints),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err((dir, error)),
        }
    }
    Ok(all)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
