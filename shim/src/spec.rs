//! The few fields of a container's `config.json` that the shim itself reads.
//!
//! The OCI runtime reads the whole and judges it; parsing all of it here would
//! cost each shim memory for nothing. (OCI runtime-spec, config.md and
//! config-linux.md.)

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;

use crate::error::{Error, Result};

/// A shallow view of an OCI runtime specification.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    /// Arbitrary metadata; the pod's ID is among it.
    pub(crate) annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: String,
}

/// Annotations that put containers into one shim, first match first: the one
/// of containerd's own shim and Kubernetes' pod.
const GROUPS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

impl Spec {
    /// Reads the specification of the bundle at `bundle`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the file when it can't be read or is
    /// not JSON.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).map_err(|e| {
            Error::InvalidArgument(format!("bundle has no spec: {}: {e}", path.display()))
        })?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::InvalidArgument(format!("invalid spec: {}: {e}", path.display())))
    }

    /// The ID of the group whose containers share one shim, if any.
    pub(crate) fn group(&self) -> Option<&str> {
        GROUPS
            .iter()
            .find_map(|group| self.annotations.get(*group))
            .map(String::as_str)
    }

    /// Whether the container's processes end with its init: they do in a PID
    /// namespace of its own.
    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|ns| ns.r#type == "pid" && ns.path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_groups_its_containers() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.2.0","annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#,
        )
        .unwrap();
        assert_eq!(spec.group(), Some("pod"));
        assert_eq!(Spec::default().group(), None);
    }

    #[test]
    fn a_joined_pid_namespace_is_not_its_own() {
        let spec = |ns: &str| -> Spec {
            serde_json::from_str(&format!(r#"{{"linux":{{"namespaces":[{ns}]}}}}"#)).unwrap()
        };
        assert!(spec(r#"{"type":"pid"}"#).has_own_pid_namespace());
        assert!(!spec(r#"{"type":"pid","path":"/proc/1/ns/pid"}"#).has_own_pid_namespace());
        assert!(!spec(r#"{"type":"mount"}"#).has_own_pid_namespace());
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Spec::read(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("config.json"), "{missing}");
        fs::write(dir.path().join("config.json"), "{").unwrap();
        let broken = Spec::read(dir.path()).unwrap_err().to_string();
        assert!(broken.starts_with("invalid spec"), "{broken}");
    }
}
