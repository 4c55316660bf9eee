//! A checkpoint at the path that it was written to.

use std::io::ErrorKind;
use std::path::Path;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::opened::OpenedDir;
use cedana_store::catalogue::CheckpointId;
use cedana_store::collect::Reference;
use nix::sys::stat::stat;

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum At {
    /// A checkpoint whose memory is in the store.
    Checkpoint(CheckpointId),
    /// None, or another checkpoint.
    Other,
    /// Nothing.
    Nothing,
    /// It can't be read, and why.
    Unreadable(String),
}

/// Looks at a path: a directory or an archive.
pub(super) fn look(path: &Path) -> At {
    let opened = match OpenedDir::open_any(path) {
        Ok(opened) => opened,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => At::Nothing,
                _ => At::Unreadable(format!("{} can't be read: {error}", path.display())),
            };
        }
    };
    match Manifest::read(&opened) {
        Ok(Some(manifest)) => match manifest.store.map(|store| CheckpointId::parse(&store.id)) {
            Some(Some(id)) => At::Checkpoint(id),
            _ => At::Other,
        },
        Ok(None) => At::Other,
        // Damaged, or newer: it may be a reference.
        Err(error) => At::Unreadable(error.to_string()),
    }
}

/// Whether the checkpoint is at its path, which was on this device.
pub(super) fn state(path: &Path, id: &CheckpointId, device: Option<u64>) -> Reference {
    match look(path) {
        At::Checkpoint(found) if found == *id => Reference::Referenced,
        At::Unreadable(why) => Reference::Unknown(why),
        At::Checkpoint(_) | At::Other | At::Nothing => {
            let nearest = path.ancestors().find_map(|dir| stat(dir).ok());
            let present = nearest.map(|status| status.st_dev);
            match (present, device) {
                (Some(present), Some(device)) if present == device => Reference::Gone,
                (_, None) => Reference::Unknown(format!(
                    "{} is not there, and the disk that it was on is unknown",
                    path.display()
                )),
                _ => Reference::Unknown(format!(
                    "{} is not there, and another disk is mounted in its place, or its disk is not",
                    path.display()
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::survey::tests::write_manifest;

    #[test]
    fn a_checkpoint_is_referred_to_by_its_directory_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/checkpoint");
        let id = CheckpointId::random().expect("an ID");
        let device = Some(stat(dir.path()).expect("status").st_dev);
        assert_eq!(state(&path, &id, device), Reference::Gone);
        write_manifest(&path, Some(&id));
        assert_eq!(state(&path, &id, device), Reference::Referenced);
        let other = CheckpointId::random().expect("an ID");
        assert_eq!(state(&path, &other, device), Reference::Gone);
        write_manifest(&path, None);
        assert_eq!(state(&path, &id, device), Reference::Gone);
    }

    #[test]
    fn a_disk_that_is_not_mounted_keeps_its_checkpoints() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = CheckpointId::random().expect("an ID");
        let device = stat(dir.path()).expect("status").st_dev;
        for device in [None, Some(device + 1)] {
            // The mount point is empty, or the directory in it is missing.
            for path in [dir.path().to_owned(), dir.path().join("checkpoint")] {
                let state = state(&path, &id, device);
                assert!(matches!(state, Reference::Unknown(_)), "{state:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = CheckpointId::random().expect("an ID");
        let device = Some(stat(dir.path()).expect("status").st_dev);
        std::fs::write(dir.path().join("cedana-manifest.json"), "{").expect("written");
        let state = state(dir.path(), &id, device);
        assert!(matches!(state, Reference::Unknown(_)), "{state:?}");
    }
}
