//! Overlay file systems that were mounted inside the container.
//!
//! CRIU refuses to dump file systems that it doesn't know, and knows overlay
//! because the container's root is one (criu/filesystems.c). To restore one it
//! mounts it with the options in /proc/PID/mountinfo, where `lowerdir` and the
//! others are paths of the process that mounted it. CRIU resolves them on the
//! host. That fails, or mounts other directories, unless they are the same ones
//! there. What comes from the host (the root, volumes, what is mounted below
//! them) is no matter: the host has it mounted, too.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Seen;
use crate::commands::checkpoint::doubt::Doubt;
use crate::oci::nested_mounts::unescaped;

/// An overlay of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Overlay {
    device: String,
    mountpoint: String,
    /// The directories that it is made of.
    layers: Vec<PathBuf>,
}

pub(super) fn look(seen: &Seen<'_>) -> Option<Doubt> {
    let hosts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let configured = configured(seen.spec);
    let mut looked_at = HashSet::new();
    let mountpoint = seen.pids().into_iter().find_map(|pid| {
        // Most processes share one mount namespace.
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
        if !looked_at.insert(namespace) {
            return None;
        }
        let theirs = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        mounted_inside(&hosts, &theirs, &configured, |layer| {
            is_on_host(layer, &root)
        })
    })?;
    Some(Doubt::new(
        format!(
            "an overlay file system was mounted inside the container at {mountpoint}, and CRIU looks for its directories on the host"
        ),
        "unmount it, or mount it on the host and make it a volume",
    ))
}

/// Where the configuration mounts overlays: their directories are the host's
/// (Podman's volumes with the option `O`).
fn configured(spec: &Value) -> HashSet<String> {
    let mounts = spec.get("mounts").and_then(Value::as_array);
    let text = |mount: &Value, key: &str| Some(mount.get(key)?.as_str()?.to_owned());
    mounts
        .into_iter()
        .flatten()
        .filter(|mount| text(mount, "type").is_some_and(|kind| kind == "overlay"))
        .filter_map(|mount| text(mount, "destination"))
        .collect()
}

/// The mountpoint of the first overlay that CRIU can't mount again.
fn mounted_inside(
    hosts: &str,
    theirs: &str,
    configured: &HashSet<String>,
    is_on_host: impl Fn(&Path) -> bool,
) -> Option<String> {
    let hosts: HashSet<&str> = hosts.lines().filter_map(device).collect();
    let root = theirs
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .and_then(device);
    theirs
        .lines()
        .filter_map(overlay)
        .filter(|overlay| Some(overlay.device.as_str()) != root)
        .filter(|overlay| !hosts.contains(overlay.device.as_str()))
        .filter(|overlay| !configured.contains(&overlay.mountpoint))
        .find(|overlay| {
            !overlay.layers.is_empty() && !overlay.layers.iter().all(|layer| is_on_host(layer))
        })
        .map(|overlay| overlay.mountpoint)
}

/// Whether a path leads to the same directory on the host as in the container.
fn is_on_host(layer: &Path, root: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let Ok(below) = layer.strip_prefix("/") else {
        // Relative to a directory that is forgotten.
        return false;
    };
    match (inode(layer), inode(&root.join(below))) {
        (Ok(here), Ok(there)) => here == there,
        // A hidden directory says nothing of the container's, but there is one on
        // the host, which may be the same.
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

fn device(line: &str) -> Option<&str> {
    line.split(' ').nth(2)
}

fn overlay(line: &str) -> Option<Overlay> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    if filesystem.next()? != "overlay" {
        return None;
    }
    let options = filesystem.nth(1)?;
    let mut fields = mount.split(' ');
    Some(Overlay {
        device: fields.nth(2)?.to_owned(),
        mountpoint: unescaped(fields.nth(1)?).to_string_lossy().into_owned(),
        layers: layers(options),
    })
}

/// The directories in an overlay's options (kernel: filesystems/overlayfs.rst).
/// An empty list stands for what isn't understood.
fn layers(options: &str) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    for option in options.split(',') {
        let Some((key, value)) = option.split_once('=') else {
            continue;
        };
        match key {
            "lowerdir" => layers.extend(
                value
                    .split(':')
                    .filter(|layer| !layer.is_empty())
                    .map(PathBuf::from),
            ),
            "lowerdir+" | "datadir+" | "upperdir" | "workdir" => layers.push(value.into()),
            _ => {}
        }
    }
    // A name with a backslash stands for another: colons and commas are escaped by
    // one, blanks by octal numbers.
    match options.contains('\\') {
        true => Vec::new(),
        false => layers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "\
21 1 254:0 / / rw - ext4 /dev/vda rw
60 21 0:50 / /run/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
61 21 0:51 / /srv/volume rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
";
    const ORDINARY: &str = "\
200 199 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
201 200 0:70 / /proc rw - proc proc rw
202 200 0:71 / /tmp rw - tmpfs tmpfs rw
203 200 0:51 / /volume rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
204 200 0:50 /mnt/a /mnt/b rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
";

    fn found(more: &str, on_host: bool) -> Option<String> {
        mounted_inside(HOST, &format!("{ORDINARY}{more}"), &HashSet::new(), |_| {
            on_host
        })
    }

    #[test]
    fn only_an_overlay_of_the_containers_own_counts() {
        assert_eq!(found("", false), None);
        let inside = "205 200 0:80 / /mnt/my\\040m rw shared:3 - overlay overlay rw,lowerdir=/x,upperdir=/y,workdir=/z\n";
        assert_eq!(found(inside, false), Some("/mnt/my m".into()));
        // Its directories are a volume that has the same path on the host.
        assert_eq!(found(inside, true), None);
        // The configuration has the runtime mount it, from the host's directories.
        let spec = serde_json::json!({"mounts": [
            {"type": "overlay", "destination": "/mnt/my m"}, {"type": "tmpfs", "destination": "/m"},
        ]});
        let theirs = format!("{ORDINARY}{inside}");
        let found_in = |spec: &Value| mounted_inside(HOST, &theirs, &configured(spec), |_| false);
        assert_eq!(found_in(&spec), None);
        assert!(found_in(&Value::Null).is_some());
        // A name that isn't understood is no proof.
        let strange =
            "205 200 0:80 / /m rw - overlay overlay rw,lowerdir=/x\\134:y,upperdir=/y,workdir=/z\n";
        assert_eq!(found(strange, false), None);
        assert_eq!(
            found("205 200 0:80 / /m rw - overlay overlay rw\n", false),
            None
        );
    }

    #[test]
    fn a_root_that_the_host_does_not_show() {
        let theirs = "200 199 0:90 / / rw - overlay overlay rw,lowerdir=/l\n";
        assert_eq!(mounted_inside("", theirs, &HashSet::new(), |_| false), None);
    }

    #[test]
    fn directories_in_options() {
        let found = |options| layers(options);
        assert_eq!(
            found("rw,lowerdir=/a:/b::/c,upperdir=/u,workdir=/w,index=off"),
            ["/a", "/b", "/c", "/u", "/w"].map(PathBuf::from)
        );
        assert_eq!(found("ro,lowerdir+=/a,datadir+=/b").len(), 2);
        assert!(found("rw").is_empty());
    }

    #[test]
    fn the_same_directory_on_both_sides() {
        let root = Path::new("/");
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(is_on_host(dir.path(), root));
        assert!(!is_on_host(Path::new("relative"), root));
        assert!(!is_on_host(&dir.path().join("missing"), root));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\\\|[0-7]|[a-z/:=, -]|overlay|lowerdir=|\\PC){0,30}") {
            let _ = overlay(&text);
            let _ = unescaped(&text);
            let _ = mounted_inside(&text, &text, &HashSet::new(), |_| false);
        }
    }
}
