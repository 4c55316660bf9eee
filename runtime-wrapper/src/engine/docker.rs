//! Recognizes Docker, and checkpoints that Docker can't restore.
//!
//! containerd's own shim runs a runtime that is given to Docker by `path`. Since
//! version 28, Docker sets a container's network up through the PID of the created
//! task, and that shim has no PID for a task that is created from a checkpoint
//! (containerd issue 12141). So `docker start --checkpoint` fails before it calls
//! cedana-runc, and a checkpoint that ends the container would lose it.

use std::env;
use std::fs;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cedana_contract::engine::DOCKER_NAMESPACE;
use cedana_contract::variables;
use serde_json::Value;

use crate::cli::Request;

/// The first version of Docker that sets the network up through the PID.
const NETWORK_BY_PID: u32 = 28;

/// The version of the calling Docker if it can't restore the checkpoint, else `None`.
pub(crate) fn cannot_restore(request: &Request) -> Option<u32> {
    let root = request.globals.root.as_deref()?;
    if !is_docker_root(root) || !is_called_by_containerds_shim() {
        return None;
    }
    // Only dockerd knows its version.
    let output = Command::new("dockerd")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    version(&String::from_utf8_lossy(&output.stdout)).filter(|version| *version >= NETWORK_BY_PID)
}

/// Whether Docker is the caller. containerd's shim and ours name a runtime's state
/// directory by containerd's namespace, which is `moby` unless `containerd-namespace`
/// in daemon.json names another.
pub(crate) fn is_caller(request: &Request) -> bool {
    let root = request.globals.root.as_deref();
    root.is_some_and(|root| root.ends_with(DOCKER_NAMESPACE) || is_docker_root(root))
}

/// Whether this is a state directory of a runtime that Docker was given by path:
/// `<exec-root>/runtime-<name>/<namespace>` (`daemon/runtime_unix.go`).
fn is_docker_root(root: &Path) -> bool {
    root.parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("runtime-"))
}

fn is_called_by_containerds_shim() -> bool {
    // Our shim may be installed under that name.
    env::var_os(variables::SHIM).is_none()
        && fs::read_link(format!("/proc/{}/exe", parent_id()))
            .is_ok_and(|exe| exe.file_name() == Some("containerd-shim-runc-v2".as_ref()))
}

/// Whether Docker removes the container with its directory as soon as it ends (`docker
/// run --rm`). The checkpoint is in that directory, and a removed container can't be
/// started from a checkpoint elsewhere (`--checkpoint-dir`) either.
pub(crate) fn removes_at_end(request: &Request, spec: &Value) -> bool {
    let directory = directory(&request.id, spec)
        .or_else(|| is_caller(request).then(|| Path::new(DEFAULT_DIRECTORY).join(&request.id)));
    directory
        .and_then(|directory| fs::read(directory.join("hostconfig.json")).ok())
        .is_some_and(|text| is_auto_removed(&text))
}

/// The directory of Docker's containers unless `data-root` in daemon.json is set.
const DEFAULT_DIRECTORY: &str = "/var/lib/docker/containers";

/// The container's own directory in any data root, by the files that Docker mounts
/// from there.
fn directory(id: &str, spec: &Value) -> Option<PathBuf> {
    const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    let mounts = spec.get("mounts")?.as_array()?;
    mounts.iter().find_map(|mount| {
        let text = |key| mount.get(key).and_then(Value::as_str);
        let directory = Path::new(text("source")?).parent()?;
        let is_containers = FILES.contains(&text("destination")?) && directory.ends_with(id);
        is_containers.then(|| directory.to_owned())
    })
}

/// Docker's data root, by the files that Docker mounts from there. A container of Docker's
/// without such a mount is taken for one of the default root.
pub(crate) fn root(id: &str, spec: Option<&Value>) -> PathBuf {
    let directory = spec.and_then(|spec| directory(id, spec));
    let root = directory.as_deref().and_then(|dir| dir.parent()?.parent());
    let default = Path::new(DEFAULT_DIRECTORY).parent();
    root.or(default).unwrap_or(Path::new("/")).to_owned()
}

fn is_auto_removed(hostconfig: &[u8]) -> bool {
    serde_json::from_slice(hostconfig)
        .is_ok_and(|config: Value| config.get("AutoRemove") == Some(&Value::Bool(true)))
}

/// The major version in "Docker version 28.5.2, build ecc6942".
fn version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("version ")?;
    rest.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_recognized_by_the_state_root() {
        assert!(is_docker_root(Path::new(
            "/var/run/docker/runtime-runc/moby"
        )));
        assert!(!is_docker_root(Path::new("/run/containerd/runc/moby")));
        assert!(!is_docker_root(Path::new("/")));
    }

    #[test]
    fn the_containers_directory_is_found_in_its_mounts() {
        let spec = serde_json::json!({"mounts": [
            {"destination": "/proc", "source": "proc"},
            {"destination": "/etc/hosts", "source": "/home/x/hosts"},
            {"destination": "/etc/hostname", "source": "/data/docker/containers/abc/hostname"},
        ]});
        assert_eq!(
            directory("abc", &spec),
            Some("/data/docker/containers/abc".into())
        );
        assert_eq!(directory("abd", &spec), None);
        assert_eq!(directory("abc", &Value::Null), None);
    }

    #[test]
    fn only_true_means_removed_at_the_end() {
        assert!(is_auto_removed(b"{\"AutoRemove\":true}"));
        for other in [
            "{\"AutoRemove\":false}",
            "{}",
            "[]",
            "",
            "{\"AutoRemove\":\"true\"}",
        ] {
            assert!(!is_auto_removed(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn versions_of_docker_are_parsed() {
        assert_eq!(
            version("Docker version 28.5.2+dfsg4, build ecc6942\n"),
            Some(28)
        );
        assert_eq!(version("podman version x"), None);
        assert_eq!(version(""), None);
    }
}
