//! Finds overlay file systems that were mounted inside the container.
//!
//! CRIU's dump accepts overlay, because the container's root is one
//! (criu/filesystems.c). CRIU's restore mounts an overlay with the options in
//! /proc/PID/mountinfo, where `lowerdir` and the others are paths of the process that
//! mounted it. CRIU resolves these paths on the host. That fails or mounts other
//! directories, unless the host has the same directories there. Overlays that the host
//! has mounted, too (the root, volumes, mounts below them), are not affected.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Inspected;
use crate::commands::checkpoint::doubt::Doubt;
use crate::host::mountinfo::{self, Mount};
use crate::host::procfs;

pub(super) fn check(container: &Inspected<'_>) -> Option<Doubt> {
    let host = mountinfo::own().ok()?;
    let configured = configured(container.spec);
    let mut checked = HashSet::new();
    let mountpoint = container.pids().into_iter().find_map(|pid| {
        // Most processes share one mount namespace.
        let namespace = fs::read_link(procfs::of(pid).join("ns/mnt")).ok()?;
        if !checked.insert(namespace) {
            return None;
        }
        let mounts = mountinfo::of(pid).ok()?;
        let root = procfs::root(pid);
        mounted_inside(&host, &mounts, &configured, |layer| {
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

/// The mountpoints of the configuration's overlays, whose directories are the host's
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
    host: &[Mount],
    mounts: &[Mount],
    configured: &HashSet<String>,
    is_on_host: impl Fn(&Path) -> bool,
) -> Option<String> {
    let root = mounts
        .iter()
        .find(|mount| mount.mountpoint == Path::new("/"));
    let is_excluded = |device: &String| {
        root.is_some_and(|root| root.device == *device)
            || host.iter().any(|mount| mount.device == *device)
    };
    mounts
        .iter()
        .filter(|mount| mount.filesystem == "overlay" && !is_excluded(&mount.device))
        .filter(|mount| {
            let layers = layers(&mount.options);
            !layers.is_empty() && !layers.iter().all(|layer| is_on_host(layer))
        })
        .map(|mount| mount.mountpoint.to_string_lossy().into_owned())
        .find(|mountpoint| !configured.contains(mountpoint))
}

/// Whether a path leads to the same directory on the host as in the container.
fn is_on_host(layer: &Path, root: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let Ok(below) = layer.strip_prefix("/") else {
        // Relative to an unknown directory.
        return false;
    };
    match (inode(layer), inode(&root.join(below))) {
        (Ok(here), Ok(there)) => here == there,
        // The container's directory is hidden, and the host's may be the same one.
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

/// The directories in an overlay's options (kernel: filesystems/overlayfs.rst), empty
/// if the options can't be parsed.
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
    // A backslash escapes colons and commas, and begins an octal number for a blank.
    match options.contains('\\') {
        true => Vec::new(),
        false => layers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mountinfo::parse;
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
        let mounts = parse(&format!("{ORDINARY}{more}"));
        mounted_inside(&parse(HOST), &mounts, &HashSet::new(), |_| on_host)
    }

    #[test]
    fn only_overlays_of_the_container_itself_are_found() {
        assert_eq!(found("", false), None);
        let inside = "205 200 0:80 / /mnt/my\\040m rw shared:3 - overlay overlay rw,lowerdir=/x,upperdir=/y,workdir=/z\n";
        assert_eq!(found(inside, false), Some("/mnt/my m".into()));
        // Its directories are a volume that has the same path on the host.
        assert_eq!(found(inside, true), None);
        // The runtime mounts it by the configuration, from the host's directories.
        let spec = serde_json::json!({"mounts": [
            {"type": "overlay", "destination": "/mnt/my m"}, {"type": "tmpfs", "destination": "/m"},
        ]});
        let mounts = parse(&format!("{ORDINARY}{inside}"));
        let host = parse(HOST);
        let found_in = |spec: &Value| mounted_inside(&host, &mounts, &configured(spec), |_| false);
        assert_eq!(found_in(&spec), None);
        assert!(found_in(&Value::Null).is_some());
        // A name that can't be parsed is no proof.
        let strange =
            "205 200 0:80 / /m rw - overlay overlay rw,lowerdir=/x\\134:y,upperdir=/y,workdir=/z\n";
        assert_eq!(found(strange, false), None);
        assert_eq!(
            found("205 200 0:80 / /m rw - overlay overlay rw\n", false),
            None
        );
    }

    #[test]
    fn the_containers_root_is_accepted() {
        let mounts = parse("200 199 0:90 / / rw - overlay overlay rw,lowerdir=/l\n");
        assert_eq!(
            mounted_inside(&[], &mounts, &HashSet::new(), |_| false),
            None
        );
    }

    #[test]
    fn directories_are_found_in_options() {
        let found = |options| layers(options);
        assert_eq!(
            found("rw,lowerdir=/a:/b::/c,upperdir=/u,workdir=/w,index=off"),
            ["/a", "/b", "/c", "/u", "/w"].map(PathBuf::from)
        );
        assert_eq!(found("ro,lowerdir+=/a,datadir+=/b").len(), 2);
        assert!(found("rw").is_empty());
    }

    #[test]
    fn directories_are_compared_with_the_hosts() {
        let root = Path::new("/");
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(is_on_host(dir.path(), root));
        assert!(!is_on_host(Path::new("relative"), root));
        assert!(!is_on_host(&dir.path().join("missing"), root));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\\\|[0-7]|[a-z/:=, -]|overlay|lowerdir=|\\PC){0,30}") {
            let _ = layers(&text);
            let mounts = parse(&text);
            let _ = mounted_inside(&[], &mounts, &HashSet::new(), |_| false);
        }
    }
}
