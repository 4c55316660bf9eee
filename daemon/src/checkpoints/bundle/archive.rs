//! What a bundle needs of a checkpoint: which one, and its container's configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::opened::OpenedDir;
use serde_json::Value;

use super::{Failure, Kind, unreadable};

/// The newest archive of a container in a directory.
///
/// # Errors
/// There is none.
pub(crate) fn newest(dir: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "tar"))
        .filter_map(|path| {
            let status = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some((status.modified().ok()?, path))
        })
        .collect();
    found.sort();
    // Others may be there too: what `docker export` wrote, and checkpoints of processes.
    let newest = found.into_iter().rev().find(|(_, path)| {
        let manifest = OpenedDir::open_any(path).map(|opened| Manifest::read(&opened));
        matches!(manifest, Ok(Ok(Some(manifest))) if manifest.process.is_none())
    });
    newest.map(|(_, path)| path).ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            format!(
                "there is no archive of a container's checkpoint in {}; name the checkpoint with -p",
                dir.display()
            ),
        )
    })
}

/// The configuration of the container in a checkpoint.
///
/// # Errors
/// The checkpoint can't be read, or has none.
pub(super) fn spec(checkpoint: &Path) -> Result<Value, Failure> {
    let opened = OpenedDir::open_any(checkpoint).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Kind::NotFound,
            format!("there is no checkpoint {}", checkpoint.display()),
        ),
        _ => unreadable(checkpoint, &error),
    })?;
    let manifest = Manifest::read(&opened);
    let manifest = manifest.map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    let spec = manifest.and_then(|manifest| manifest.container.spec);
    spec.filter(Value::is_object).ok_or_else(|| {
        Failure::new(
            Kind::Invalid,
            format!(
                "the checkpoint {} does not say how its container was configured; give a bundle with a config.json",
                checkpoint.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_checkpoint_has_no_newest() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("a.tar"), "not a tar").expect("write");
        let none = newest(dir.path()).expect_err("none");
        assert_eq!(none.kind, Kind::NotFound);
        assert!(spec(&dir.path().join("a.tar")).is_err());
        assert_eq!(
            spec(&dir.path().join("b.tar")).expect_err("missing").kind,
            Kind::NotFound
        );
    }
}
