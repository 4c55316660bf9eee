//! The mounts of a checkpoint.

use serde::Serialize;

use crate::images::dir::{Dir, number};
use crate::images::proto;
use crate::images::{Error, Images};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// CRIU's number for the mount namespace.
    pub namespace: u32,
    /// Its ID, as in /proc/PID/mountinfo.
    pub id: u32,
    /// The ID of its parent mount.
    pub parent: u32,
    /// The mountpoint.
    pub mountpoint: String,
    /// The directory of the file system that is mounted.
    pub root: String,
    /// The file system's type.
    pub fstype: String,
    /// The source.
    pub source: String,
    /// The file system's options.
    pub options: String,
    /// The key under which a restore must supply an external mount.
    pub external: Option<String>,
}

pub(super) fn read<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    listing: &[(String, u64)],
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for (name, _) in listing {
        let Some(namespace) = number(name, "mountpoints-") else {
            continue;
        };
        for mount in dir.all::<proto::Mount>(name)? {
            mounts.push(Mount {
                namespace,
                id: mount.mnt_id,
                parent: mount.parent_mnt_id,
                fstype: fstype(&mount),
                // Old versions of CRIU only mark it as external. Then the root is the key.
                external: mount.ext_key.or_else(|| {
                    mount
                        .ext_mount
                        .filter(|ext| *ext)
                        .map(|_| mount.root.clone())
                }),
                mountpoint: mount.mountpoint,
                root: mount.root,
                source: mount.source,
                options: mount.options,
            });
        }
    }
    Ok(mounts)
}

/// The keys of the external mounts of a checkpoint. Files that can't be read
/// count as absent, since [`crate::images::verify()`] reports damage.
#[must_use]
pub fn external_mounts<I: Images + ?Sized>(images: &I) -> Vec<String> {
    let dir = Dir(images);
    let listing = dir.files().unwrap_or_default();
    let mounts = read(&dir, &listing).unwrap_or_default();
    mounts
        .into_iter()
        .filter_map(|mount| mount.external)
        .collect()
}

/// The name of a mount's file system type: that of its number in CRIU's mnt.proto, or the
/// name that CRIU stores for a type without a number.
fn fstype(mount: &proto::Mount) -> String {
    const NAMES: [&str; 24] = [
        "",
        "proc",
        "sysfs",
        "devtmpfs",
        "binfmt_misc",
        "tmpfs",
        "devpts",
        "simfs",
        "pstore",
        "securityfs",
        "fusectl",
        "debugfs",
        "cgroup",
        "aufs",
        "mqueue",
        "fuse",
        "",
        "overlay",
        "autofs",
        "tracefs",
        "rpc_pipefs",
        "nfs",
        "nfs4",
        "cgroup2",
    ];
    let name = NAMES
        .get(mount.fstype as usize)
        .copied()
        .unwrap_or_default();
    match &mount.fsname {
        Some(stored) if name.is_empty() => stored.clone(),
        _ if name.is_empty() => "unknown".to_owned(),
        _ => name.to_owned(),
    }
}
