//! Finds checkpoints in directories, for a catalogue that is made again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cedana_checkpoint::format::{contents, manifest::Manifest};
use cedana_checkpoint::opened::OpenedDir;
use cedana_store::catalogue::{CheckpointId, NewCheckpoint};
use cedana_store::check::FoundCheckpoint;
use nix::sys::stat::stat;
use serde_json::json;

use super::docker;

/// Docker's data root, unless `data-root` in daemon.json names another.
const DOCKER: &str = "/var/lib/docker";

/// Where checkpoints are looked for beside what a person names.
#[must_use]
pub fn default_places() -> Vec<PathBuf> {
    vec![DOCKER.into()]
}

/// The checkpoints with memory in the store in these places, each a data root of Docker's,
/// a checkpoint, or a directory of checkpoints. `tell` is called for each that can't be
/// read.
pub fn find_checkpoints(places: &[PathBuf], tell: &dyn Fn(String)) -> Vec<FoundCheckpoint> {
    let mut found = Vec::new();
    for place in places {
        if let Ok(checkpoints) = docker::checkpoints(place) {
            for path in checkpoints {
                let container = path
                    .parent()
                    .and_then(Path::parent)
                    .and_then(Path::file_name);
                let subject = json!({
                    "engine": "docker",
                    "root": place,
                    "container": container.map(|name| name.to_string_lossy()),
                });
                found.extend(find(&path, subject, tell));
            }
            continue;
        }
        for path in candidates(place) {
            let device = stat(&path).ok().map(|status| status.st_dev);
            let subject = json!({"engine": "none", "device": device});
            found.extend(find(&path, subject, tell));
        }
    }
    found
}

/// A place itself, and what is in it if it is no checkpoint.
fn candidates(place: &Path) -> Vec<PathBuf> {
    let is_checkpoint = OpenedDir::open_any(place)
        .is_ok_and(|dir| dir.is_archive() || matches!(Manifest::read(&dir), Ok(Some(_))));
    match (is_checkpoint, fs::read_dir(place)) {
        (false, Ok(entries)) => entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect(),
        _ => vec![place.to_owned()],
    }
}

fn find(path: &Path, subject: serde_json::Value, tell: &dyn Fn(String)) -> Option<FoundCheckpoint> {
    match read(path, subject) {
        Ok(found) => found,
        Err(error) => {
            tell(format!("{} is left out: {error}", path.display()));
            None
        }
    }
}

/// The checkpoint at a path; `None` if there is none with memory in the store.
fn read(path: &Path, subject: serde_json::Value) -> io::Result<Option<FoundCheckpoint>> {
    let dir = match OpenedDir::open_any(path) {
        // Files of other kinds beside the checkpoints.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        dir => dir?,
    };
    let manifest = Manifest::read(&dir).map_err(io::Error::other)?;
    let Some(manifest) = manifest else {
        return Ok(None);
    };
    let id = manifest
        .store
        .as_ref()
        .map(|store| CheckpointId::parse(&store.id));
    let Some(Some(id)) = id else {
        return Ok(None);
    };
    let lists = contents::lists(&dir, &manifest).map_err(io::Error::other)?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Some(FoundCheckpoint {
        checkpoint: NewCheckpoint {
            id,
            name,
            path: std::path::absolute(path)?,
            raw_bytes: manifest.cost.raw_bytes,
            bytes: manifest.files.iter().map(|file| file.size).sum(),
            subject,
            details: json!({}),
        },
        lists,
    }))
}
