//! What a checkpoint in the store is of: the JSON that `cedana-runc` wrote.

use std::path::PathBuf;

use cedana_store::catalogue::CheckpointRow;
use serde::Deserialize;

/// See the module's documentation. Keys are only added.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "engine", rename_all = "lowercase")]
pub(super) enum Subject {
    /// A container of Docker's.
    Docker {
        /// Docker's data root.
        root: Option<PathBuf>,
        container: String,
        /// containerd's socket.
        address: Option<PathBuf>,
    },
    /// A container of containerd's.
    Containerd {
        namespace: Option<String>,
        address: Option<PathBuf>,
        /// Whether containerd packed the directory into its content and removed it.
        #[serde(default)]
        packed: bool,
        /// The device of the directory.
        device: Option<u64>,
    },
    /// A directory or an archive at a path that the caller chose.
    None {
        /// The device of the directory.
        device: Option<u64>,
    },
    /// Chunks that a repair keeps for checkpoints that it did not find.
    Recovered,
}

/// The socket unless a checkpoint names another.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The sockets of the containerd that Docker uses: the node's, or one that it starts.
pub(super) const OF_DOCKER: [&str; 2] = [CONTAINERD, "/run/docker/containerd/containerd.sock"];

impl Subject {
    /// The subject of a checkpoint; `None` if a newer version wrote it.
    pub(super) fn of(row: &CheckpointRow) -> Option<Self> {
        serde_json::from_value(row.subject.clone()).ok()
    }

    /// The sockets behind which its checkpoint can be.
    pub(super) fn addresses(&self) -> Vec<PathBuf> {
        match self {
            Self::Docker { address, .. } => {
                let mut all: Vec<PathBuf> = OF_DOCKER.map(PathBuf::from).into();
                all.extend(address.clone().filter(|address| !all.contains(address)));
                // Docker has one of them.
                all.retain(|address| address.exists());
                all
            }
            Self::Containerd {
                address,
                packed: true,
                ..
            } => vec![address.clone().unwrap_or_else(|| CONTAINERD.into())],
            _ => Vec::new(),
        }
    }
}
