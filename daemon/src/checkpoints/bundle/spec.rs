//! A configuration for a new container, made from that of a checkpoint's.
//!
//! | of the checkpoint's                     | for the new container                          |
//! |------------------------------------------|------------------------------------------------|
//! | root                                     | the bundle's                                   |
//! | cgroup                                   | one of its own, `/cedana/ID`                   |
//! | namespaces of the engine, by path        | new ones, if the path is a process's or missing |
//! | /etc/hosts, hostname, resolv.conf        | copies in the bundle                           |
//! | hooks: programs of the engine            | none: they set up the old container            |
//! | the annotation `org.criu.config`         | none: it names a file of the other machine     |
//!
//! Everything else stays, as CRIU's images need it. So a checkpoint without a bundle
//! chooses what its container gets of this machine: its mounts are told to the caller.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use super::{Failure, Kind};

/// Files that engines make for each container, and mount.
const OF_ENGINE: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// The most bytes of such a file.
const MAX_FILE: u64 = 1 << 20;

/// Names a file with CRIU's options.
const CRIU_CONFIG: &str = "org.criu.config";

/// Where the new container is.
pub(super) struct Place<'a> {
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) rootfs: &'a Path,
}

/// Returns the configuration, and what its caller should know of it.
///
/// # Errors
/// It is not one of a container, or a file can't be copied.
pub(super) fn adapt(mut spec: Value, place: &Place<'_>) -> Result<(Value, Vec<String>), Failure> {
    let linux = |spec: &Value| spec["linux"].is_object();
    if !spec["root"].is_object() || !linux(&spec) {
        return Err(Failure::new(
            Kind::Invalid,
            "the checkpoint's configuration is not one of a container on Linux; give a bundle with a config.json",
        ));
    }
    spec["root"]["path"] = place.rootfs.to_string_lossy().into();
    spec["linux"]["cgroupsPath"] = format!("/cedana/{}", place.id).into();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("hooks");
    }
    if let Some(annotations) = spec["annotations"].as_object_mut() {
        annotations.remove(CRIU_CONFIG);
    }
    // What is indexed with [] is added if it is missing.
    if spec["annotations"].is_null()
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("annotations");
    }
    for namespace in array(&mut spec["linux"], "namespaces") {
        let path = namespace["path"].as_str().unwrap_or_default();
        // A process ID may be another process's by now.
        if (path.starts_with("/proc/") || !Path::new(path).exists())
            && let Some(namespace) = namespace.as_object_mut()
        {
            namespace.remove("path");
        }
    }
    let mut warnings = Vec::new();
    for mount in array(&mut spec, "mounts").filter(|mount| is_bind(mount)) {
        let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
        let (source, destination) = (text("source"), text("destination"));
        if OF_ENGINE.contains(&&*destination) && source != destination {
            let copy = copy(Path::new(&source), &destination, place);
            mount["source"] = copy?.into();
        } else {
            warnings.push(format!(
                "the container gets {source} of this machine at {destination}, as its checkpoint says"
            ));
        }
    }
    Ok((spec, warnings))
}

fn array<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter(|entry| entry.is_object())
}

/// Whether a mount is a bind mount (OCI runtime-spec, config.md, "Mounts").
fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array().into_iter().flatten();
    mount["type"] == "bind"
        || options
            .filter_map(Value::as_str)
            .any(|option| matches!(option, "bind" | "rbind"))
}

/// Copies an engine's file to the bundle: the engine's own, or that of the container's
/// root, where it is empty after `docker export`. Returns the copy's path.
fn copy(source: &Path, destination: &str, place: &Place<'_>) -> Result<String, Failure> {
    let within = place.rootfs.join(destination.trim_start_matches('/'));
    let content = read(source).or_else(|_| read(&within)).unwrap_or_default();
    let name = destination.rsplit('/').next().unwrap_or_default();
    let copy = place.bundle.join(name);
    // The daemon's umask would take it from the container's users.
    let written = fs::write(&copy, content)
        .and_then(|()| fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)));
    written.map_err(|error| {
        Failure::new(
            Kind::System,
            format!("cannot write {}: {error}", copy.display()),
        )
    })?;
    Ok(copy.to_string_lossy().into_owned())
}

/// Reads a small regular file that is no link.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adapted(dir: &Path, spec: Value) -> (Value, Vec<String>) {
        let place = Place {
            id: "new",
            bundle: dir,
            rootfs: &dir.join("rootfs"),
        };
        adapt(spec, &place).expect("a configuration")
    }

    #[test]
    fn a_docker_container_gets_a_place_of_its_own() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("rootfs/etc")).expect("mkdir");
        let engines = dir.path().join("engine-hosts");
        fs::write(&engines, "127.0.0.1 old").expect("write");
        fs::write(dir.path().join("rootfs/etc/hostname"), "root").expect("write");
        let bind = |destination: &str, source: &Path| json!({"destination": destination, "source": source, "type": "bind", "options": ["rbind"]});
        let gone = dir.path().join("gone");
        let (spec, warnings) = adapted(
            dir.path(),
            json!({
                "root": {"path": "/var/lib/docker/overlay2/x/merged", "readonly": true},
                "hooks": {"prestart": [{"path": "/proc/1/exe"}]},
                "annotations": {"org.criu.config": "/etc/x", "a": "b"},
                "linux": {"cgroupsPath": "/docker/old", "namespaces": [
                    {"type": "network", "path": "/proc/1/ns/net"},
                    {"type": "ipc", "path": "/var/run/docker/none"},
                    {"type": "uts", "path": dir.path()},
                    {"type": "pid"},
                ]},
                "mounts": [
                    bind("/etc/hosts", &engines),
                    bind("/etc/hostname", &gone),
                    bind("/etc/resolv.conf", &gone),
                    bind("/data", &gone),
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                ],
            }),
        );
        assert_eq!(spec["root"]["path"], json!(dir.path().join("rootfs")));
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["linux"]["cgroupsPath"], "/cedana/new");
        assert_eq!(spec.get("hooks"), None);
        assert_eq!(spec["annotations"], json!({"a": "b"}));
        let paths: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .expect("namespaces")
            .iter()
            .map(|namespace| namespace.get("path").is_some())
            .collect();
        assert_eq!(paths, [false, false, true, false]);
        let read = |at: usize| {
            let source = spec["mounts"][at]["source"].as_str().expect("a source");
            fs::read_to_string(source).expect("read")
        };
        assert_eq!([read(0), read(1), read(2)], ["127.0.0.1 old", "root", ""]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("at /data"), "{warnings:?}");
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let place = Place {
            id: "new",
            bundle: Path::new("/nowhere"),
            rootfs: Path::new("/nowhere"),
        };
        for spec in [
            json!({}),
            json!({"root": {}}),
            json!({"root": 1, "linux": {}}),
        ] {
            assert!(adapt(spec.clone(), &place).is_err(), "{spec}");
        }
        let odd = json!({"root": {}, "linux": {"namespaces": [1, {"path": 2}]}, "mounts": [[], {"type": "bind"}], "annotations": []});
        assert!(adapt(odd, &place).is_ok());
    }
}
