//! The few fields of a container's `config.json` that the shim itself reads.
//!
//! The OCI runtime parses and validates the whole spec (OCI runtime-spec, config.md
//! and config-linux.md). The shim doesn't use oci-spec's types: a full parse
//! allocates the whole spec in each shim, and rewriting config.json would lose the
//! fields that oci-spec doesn't know.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Context, Error, Result, at};

/// A shallow view of an OCI runtime specification.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    /// Arbitrary metadata, such as the pod's ID.
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

/// Annotations that group containers into one shim, in order of precedence: that of
/// containerd's own shim, and Kubernetes' pod ID.
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

    /// Whether the OCI runtime creates the container's network namespace. The engine
    /// sets up the network afterwards.
    pub(crate) fn wants_network_namespace(&self) -> bool {
        self.has_own("network")
    }

    /// Whether the container has its own PID namespace. The kernel then kills all its
    /// processes when init exits.
    pub(crate) fn has_own_pid_namespace(&self) -> bool {
        self.has_own("pid")
    }

    fn has_own(&self, namespace: &str) -> bool {
        self.linux
            .namespaces
            .iter()
            .any(|ns| ns.r#type == namespace && ns.path.is_empty())
    }
}

/// Gives a container that is restored under another ID a cgroup of its own.
///
/// `ctr c restore NEW CHECKPOINT` copies the old container's spec with its
/// `cgroupsPath`, which containerd's client derives from namespace and ID. If the old
/// container still runs, runc from 1.2 on refuses the cgroup because it has
/// processes. runc 1.1 puts both containers into the cgroup, so limits, pause and
/// kill of one affect the other. Any other path is the user's choice and is kept.
///
/// # Errors
/// When the spec can't be read or replaced. The replacement is atomic.
pub(crate) fn claim_cgroup(bundle: &Path, namespace: &str, id: &str) -> Result<()> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).context(|| at("read", &path))?;
    let mut spec: Value = serde_json::from_slice(&text)
        .map_err(|e| Error::InvalidArgument(format!("invalid spec: {}: {e}", path.display())))?;
    let Some(cgroup) = spec.pointer_mut("/linux/cgroupsPath") else {
        return Ok(());
    };
    let Some(own) = cgroup
        .as_str()
        .and_then(|path| own_cgroup(path, namespace, id))
    else {
        return Ok(());
    };
    *cgroup = own.into();
    let new = bundle.join("config.json.new");
    fs::write(&new, spec.to_string()).context(|| at("write", &new))?;
    fs::rename(&new, &path).context(|| at("replace", &path))
}

/// The default path for `id`, if `path` is the default for another ID.
fn own_cgroup(path: &str, namespace: &str, id: &str) -> Option<String> {
    let prefix = format!("/{namespace}/");
    let other = path.strip_prefix(&prefix)?;
    (other != id && !other.contains('/')).then(|| format!("{prefix}{id}"))
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
    fn only_another_containers_default_cgroup_is_replaced() {
        assert_eq!(
            own_cgroup("/default/old", "default", "new").as_deref(),
            Some("/default/new")
        );
        assert_eq!(own_cgroup("/default/new", "default", "new"), None);
        assert_eq!(own_cgroup("/default/a/b", "default", "new"), None);
        assert_eq!(own_cgroup("/k8s.io/old", "default", "new"), None);
        assert_eq!(own_cgroup("machine.slice:x:old", "default", "new"), None);
    }

    #[test]
    fn a_cgroup_claim_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(
            &file,
            r#"{"future":[1],"linux":{"cgroupsPath":"/default/old","x":1}}"#,
        )
        .unwrap();
        claim_cgroup(dir.path(), "default", "new").unwrap();
        let spec: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            spec,
            serde_json::json!({"future":[1],"linux":{"cgroupsPath":"/default/new","x":1}})
        );
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
