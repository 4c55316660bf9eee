//! Names the mounts below a container's recursive bind mounts to CRIU.
//!
//! A bind mount with the option `rbind` includes the mounts below its source
//! (`docker run -v /:/host`). Runtimes name to CRIU only the mounts of the
//! configuration, so CRIU takes those below for the container's own. It then refuses
//! bind mounts among them ("doesn't have a proper root mount"), and restores a tmpfs
//! as a copy that the host no longer shares. So dump and restore name them, too
//! (`--external mnt[KEY]:...`, criu(8)):
//!
//! ```text
//! dump     /top/sub is mounted in the container, and SOURCE/sub on the host,
//!          and both are the same directory of the same file system: KEY is /top/sub
//! restore  KEY is in the images and below a recursive bind mount of the bundle:
//!          CRIU mounts SOURCE/sub there
//! ```
//!
//! A restoring runc binds such a source, with all mounts below, into the container's
//! root for a moment (libcontainer/criu_linux.go, `prepareCriuRestoreMounts`). If a
//! mount of the host is shared, unmounting the bind also unmounts the host's own
//! mounts below it, so runc then gets a mount namespace of its own
//! ([`would_unmount_host_mounts`]).
//!
//! CRIU handles mounts that the host no longer has, mounts that the container made,
//! and paths that don't fit into CRIU's configuration.

mod destinations;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::config::{ExternalMount, fits};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde_json::Value;

use crate::host::mountinfo::{self, Mount};
use crate::host::procfs;
use cedana_contract::pid::Pid;
use destinations::Destinations;

/// The keys of the mounts that a dump leaves to the host. Empty if the configuration
/// or the mounts can't be read: CRIU then dumps all of them.
pub(crate) fn external_keys(spec: &Value, config: &Path, init: Pid) -> Vec<String> {
    let read = || -> Option<Vec<String>> {
        let destinations = Destinations::of(spec, config.parent()?, &procfs::root(init));
        if destinations.recursive_sources().next().is_none() {
            return Some(Vec::new());
        }
        let container = mountinfo::of(init).ok()?;
        let host = mountinfo::own().ok()?;
        Some(shared(&destinations, &container, &host))
    };
    read().unwrap_or_default()
}

/// The container's mounts that came with a recursive bind mount and that the host
/// still has. CRIU applies a key to every mount on that mountpoint, so all of them
/// must be the host's: a key would drop a mount that the container made on top.
fn shared(destinations: &Destinations, container: &[Mount], host: &[Mount]) -> Vec<String> {
    let stack = |mounts: &[Mount], mountpoint: &Path| -> Vec<(String, String)> {
        mounts
            .iter()
            .filter(|mount| mount.mountpoint == mountpoint)
            .map(|mount| (mount.device.clone(), mount.root.clone()))
            .collect()
    };
    let is_shared = |mountpoint: &Path| {
        let Some(source) = destinations.source_of(mountpoint) else {
            return false;
        };
        let (container, host) = (stack(container, mountpoint), stack(host, &source));
        // A restore mounts the uppermost as often as there were mounts in the stack.
        source.to_str().is_some_and(fits)
            && container.last() == host.last()
            && container.iter().all(|mount| host.contains(mount))
    };
    let mountpoints: BTreeSet<&Path> = container
        .iter()
        .map(|mount| mount.mountpoint.as_path())
        .collect();
    mountpoints
        .into_iter()
        .filter(|mountpoint| is_shared(mountpoint))
        .filter_map(|mountpoint| mountpoint.to_str().map(str::to_owned))
        .collect()
}

/// The host's files and directories that CRIU mounts for the keys of a checkpoint's
/// images.
///
/// # Errors
/// The path in the container and the host's path, if the latter does not exist, does
/// not fit into CRIU's configuration, or has a symbolic link in it. Such a link would
/// show the container a file that its bind mount does not hold.
pub(crate) fn external_mounts(
    keys: impl IntoIterator<Item = String>,
    spec: &Value,
    bundle: &Path,
    rootfs: &Path,
) -> Result<Vec<ExternalMount>, (String, PathBuf)> {
    let destinations = Destinations::of(spec, bundle, rootfs);
    let mut found = Vec::new();
    for key in keys {
        let Some(source) = destinations.source_of(Path::new(&key)) else {
            continue;
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let exists = openat2(nix::fcntl::AT_FDCWD, &source, how).is_ok();
        if !exists || !source.to_str().is_some_and(fits) {
            return Err((key, source));
        }
        found.push(ExternalMount { key, source });
    }
    Ok(found)
}

/// Whether a restore by runc would unmount mounts of the host: a recursive bind
/// mount includes one whose parent is shared (mount_namespaces(7)).
pub(crate) fn would_unmount_host_mounts(spec: &Value, bundle: &Path) -> bool {
    let host = mountinfo::own().unwrap_or_default();
    Destinations::of(spec, bundle, Path::new("/"))
        .recursive_sources()
        .any(|source| has_shared_below(source, &host))
}

fn has_shared_below(source: &Path, host: &[Mount]) -> bool {
    let is_shared = |id: &str| host.iter().any(|mount| mount.id == id && mount.shared);
    host.iter()
        .filter(|mount| mount.mountpoint != source && mount.mountpoint.starts_with(source))
        .any(|mount| is_shared(&mount.parent))
}

#[cfg(test)]
mod tests;
