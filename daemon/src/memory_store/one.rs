//! Looks for one checkpoint.

use std::path::PathBuf;

use cedana_store::catalogue::{Blobs, CheckpointRow};
use cedana_store::collect::{Reference, References};

use super::docker;
use super::path::{At, look};
use super::subject::Subject;
use super::survey::Survey;

/// Whether anything refers to a checkpoint. `blobs` are the contents of containerd that
/// were looked at before.
pub async fn look_for(row: &CheckpointRow, blobs: &Blobs) -> Reference {
    let mut survey = Survey::of(std::slice::from_ref(row), blobs).await;
    survey.state(row)
}

/// Where a checkpoint's directory or archive is: where it was written to, or where Docker
/// keeps it.
#[must_use]
pub fn place(row: &CheckpointRow) -> Option<PathBuf> {
    let id = row.id.as_ref()?;
    let is_it = |path: &PathBuf| look(path) == At::Checkpoint(id.clone());
    if is_it(&row.path) {
        return Some(row.path.clone());
    }
    let Some(Subject::Docker {
        root: Some(root), ..
    }) = Subject::of(row)
    else {
        return None;
    };
    docker::checkpoints(&root).ok()?.into_iter().find(is_it)
}
