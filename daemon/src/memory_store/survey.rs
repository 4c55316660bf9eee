//! Looks where checkpoints can be, once for all of them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use cedana_store::catalogue::{Blobs, CheckpointId, CheckpointRow};
use cedana_store::clock::Moment;
use cedana_store::collect::{Reference, References};

use super::docker::Root;
use super::path;
use super::subject::Subject;
use crate::checkpoints::containerd;

/// How long containerd may take to list and read its content.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a checkpoint that was never seen in containerd's content counts as gone. Its client
/// packs it for as long as it takes to copy the memory that is not in the store.
const UNSEEN: Duration = Duration::from_secs(24 * 3600);

/// The namespace of Kubernetes, whose kubelet keeps checkpoints as archives of its own.
const KUBERNETES: &str = "k8s.io";

/// What was found.
pub(super) struct Survey {
    roots: HashMap<PathBuf, Root>,
    /// The checkpoints behind each socket, or why they are unknown.
    contents: HashMap<PathBuf, Result<HashSet<CheckpointId>, String>>,
    blobs: Blobs,
    now: Moment,
}

impl Survey {
    /// Looks for what these checkpoints can be in. `known` are the contents of containerd
    /// that were looked at before.
    pub(super) async fn of(rows: &[CheckpointRow], known: &Blobs) -> Self {
        let mut survey = Self {
            roots: HashMap::new(),
            contents: HashMap::new(),
            blobs: Blobs::new(),
            now: Moment::now(),
        };
        for subject in rows.iter().filter_map(Subject::of) {
            if let Subject::Docker {
                root: Some(root), ..
            } = &subject
                && !survey.roots.contains_key(root)
            {
                survey.roots.insert(root.clone(), Root::scan(root));
            }
            for address in subject.addresses() {
                if survey.contents.contains_key(&address) {
                    continue;
                }
                let stored = containerd::stored(&address, known, &mut survey.blobs);
                let found = match tokio::time::timeout(PATIENCE, stored).await {
                    Ok(found) => found.map_err(|failure| failure.to_string()),
                    Err(_) => Err(format!("containerd at {} is slow", address.display())),
                };
                survey.contents.insert(address, found);
            }
        }
        survey
    }

    /// The contents of containerd, if all could be looked at.
    pub(super) fn blobs(&self) -> Option<&Blobs> {
        let all = self.contents.values().all(Result::is_ok);
        (all && !self.contents.is_empty()).then_some(&self.blobs)
    }

    /// Whether a checkpoint is behind one of these sockets; why it is unknown.
    fn has_content(&self, addresses: &[PathBuf], id: &CheckpointId) -> Result<bool, String> {
        let mut unknown = None;
        for address in addresses {
            match self.contents.get(address) {
                Some(Ok(found)) if found.contains(id) => return Ok(true),
                Some(Ok(_)) => {}
                Some(Err(why)) => unknown = Some(why.clone()),
                None => unknown = Some(format!("{} was not looked at", address.display())),
            }
        }
        match (unknown, addresses.is_empty()) {
            (Some(why), _) => Err(why),
            (None, true) => Err("containerd does not run".to_owned()),
            (None, false) => Ok(false),
        }
    }

    fn docker(
        &self,
        row: &CheckpointRow,
        id: &CheckpointId,
        subject: &Subject,
    ) -> Result<Reference, String> {
        let Subject::Docker {
            root, container, ..
        } = subject
        else {
            return Err("it is not Docker's".to_owned());
        };
        let root = root.as_ref().ok_or("Docker's data root is unknown")?;
        let scanned = self.roots.get(root).ok_or("it was not looked at")?;
        if scanned.has(id)? || self.has_content(&subject.addresses(), id)? {
            return Ok(Reference::Referenced);
        }
        Ok(
            match row.seen.is_some() || !scanned.has_container(container) {
                true => Reference::Gone,
                false => Reference::Unknown(format!(
                    "it was not found below {}; it may be in another directory (docker checkpoint create --checkpoint-dir) until container {container} is removed",
                    root.display()
                )),
            },
        )
    }

    fn containerd(
        &self,
        row: &CheckpointRow,
        id: &CheckpointId,
        subject: &Subject,
    ) -> Result<Reference, String> {
        if self.has_content(&subject.addresses(), id)? {
            return Ok(Reference::Referenced);
        }
        let is_kubernetes = matches!(
            subject,
            Subject::Containerd { namespace: Some(namespace), .. } if namespace == KUBERNETES
        );
        Ok(match row.seen.is_some() || row.unseen(&self.now) > UNSEEN {
            true if is_kubernetes && row.seen.is_none() => {
                Reference::Unknown("it may be in an archive of the kubelet's".to_owned())
            }
            true => Reference::Gone,
            false => Reference::Unknown("containerd may still pack it".to_owned()),
        })
    }
}

impl References for Survey {
    fn state(&mut self, row: &CheckpointRow) -> Reference {
        let unknown = |why: &str| Reference::Unknown(why.to_owned());
        let Some(id) = &row.id else {
            return unknown("its memory is not in the store");
        };
        let Some(subject) = Subject::of(row) else {
            return unknown("a newer version wrote it");
        };
        let found = match &subject {
            Subject::Recovered => return unknown("a repair keeps it"),
            Subject::None { device }
            | Subject::Containerd {
                packed: false,
                device,
                ..
            } => return path::state(&row.path, id, *device),
            _ if path::look(&row.path) == path::At::Checkpoint(id.clone()) => {
                return Reference::Referenced;
            }
            Subject::Docker { .. } => self.docker(row, id, &subject),
            Subject::Containerd { .. } => self.containerd(row, id, &subject),
        };
        found.unwrap_or_else(Reference::Unknown)
    }
}

#[cfg(test)]
pub(super) mod tests;
