//! What Docker can't bring back, refused while there is still something to lose.
//!
//! A runtime that is given to Docker by `path` is driven by containerd's own
//! shim. Since version 28, Docker sets a container's network up through the PID
//! of the created task, and that shim has none for a task that is created from a
//! checkpoint (containerd issue 12141): `docker start --checkpoint` fails before
//! anything of ours is called. A checkpoint that ends the container would
//! therefore end it for good.

use std::env;
use std::fs;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cedana_contract::engine::DOCKER_NAMESPACE;
use cedana_contract::variables;
use serde_json::Value;

use crate::cli::Request;

/// The first version that can't.
const FIRST: u32 = 28;

/// The Docker by which we are called and which can't restore what we take: its
/// version.
pub(crate) fn cannot_restore(request: &Request) -> Option<u32> {
    let root = request.globals.root.as_deref()?;
    if !is_dockers(root) || !is_called_by_containerds_shim() {
        return None;
    }
    // Nobody else knows which it is.
    let output = Command::new("dockerd")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    version(&String::from_utf8_lossy(&output.stdout)).filter(|version| *version >= FIRST)
}

/// Whether Docker asks: containerd's shim, and ours, keep a runtime's state by
/// containerd's namespace, which is Docker's unless `containerd-namespace` in
/// daemon.json names another.
pub(crate) fn asks(request: &Request) -> bool {
    let root = request.globals.root.as_deref();
    root.is_some_and(|root| root.ends_with(DOCKER_NAMESPACE) || is_dockers(root))
}

/// Docker has runtimes given by path keep their state in
/// `<exec-root>/runtime-<name>/<namespace>` (`daemon/runtime_unix.go`).
fn is_dockers(root: &Path) -> bool {
    root.parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("runtime-"))
}

fn is_called_by_containerds_shim() -> bool {
    // Ours may stand in its place, under its name.
    env::var_os(variables::SHIM).is_none()
        && fs::read_link(format!("/proc/{}/exe", parent_id()))
            .is_ok_and(|exe| exe.file_name() == Some("containerd-shim-runc-v2".as_ref()))
}

/// Whether Docker removes the container, and what lies in its directory, as soon
/// as it ends: `docker run --rm`. A checkpoint lies there, and a container that
/// is removed can't be started from one kept elsewhere (`--checkpoint-dir`).
pub(crate) fn removes_at_end(request: &Request, spec: &Value) -> bool {
    let directory = directory(&request.id, spec)
        .or_else(|| asks(request).then(|| Path::new(DEFAULT_DIRECTORY).join(&request.id)));
    directory
        .and_then(|directory| fs::read(directory.join("hostconfig.json")).ok())
        .is_some_and(|text| is_auto_removed(&text))
}

/// Where Docker keeps its containers unless `data-root` in daemon.json says
/// otherwise.
const DEFAULT_DIRECTORY: &str = "/var/lib/docker/containers";

/// A container's own directory, wherever Docker's data root is: it mounts these
/// files from there.
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
    fn the_state_root_tells_docker() {
        assert!(is_dockers(Path::new("/var/run/docker/runtime-runc/moby")));
        assert!(!is_dockers(Path::new("/run/containerd/runc/moby")));
        assert!(!is_dockers(Path::new("/")));
    }

    #[test]
    fn the_containers_directory_is_in_its_mounts() {
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
    fn only_a_true_value_removes() {
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
    fn versions_of_docker() {
        assert_eq!(
            version("Docker version 28.5.2+dfsg4, build ecc6942\n"),
            Some(28)
        );
        assert_eq!(version("podman version x"), None);
        assert_eq!(version(""), None);
    }
}
