//! Mounts that a container with CAP_SYS_ADMIN made itself.
//!
//! CRIU mounts each file system once: the root and the external mounts from the host's
//! directories, any other from its type, source and options. A further mount of the same
//! file system is bound from the first one that is mounted (criu/mount-v2.c,
//! `propagate_mount_v2`, `do_bind_mount_v2`), whose directories CRIU follows without
//! mounts on top of them, but with symbolic links. So an own mount may be:
//!
//! ```text
//! a file system of its own    of a type whose instances belong to the container, or of
//!                             which the kernel has one (outside of user namespaces)
//! a directory of a base       the root, an external mount, or a file system of its own;
//!                             the path from the base's directory to it has no link
//! ```
//!
//! Such a container can mount the host's disks anyhow, if the configuration gives it
//! their devices.

use std::collections::HashSet;

use super::messages::Mount;
use super::mount::{DEBUGFS, NULL, canonical, is_below, kind};
use super::places::Files;

/// A directory of a mount that another mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind {
    /// The mount that shows it.
    pub(super) mountpoint: String,
    /// The mount that it is bound from, and the files there.
    pub(super) from: String,
    pub(super) files: Files,
    /// The path from there.
    pub(super) path: Vec<u8>,
}

/// The types whose instances belong to a container, which it may mount itself.
const PRIVATE: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

/// CRIU's numbers (mnt.proto) of file systems of which the kernel has one: pstore,
/// securityfs, fusectl and debugfs. CRIU mounts them without any content, and leaves
/// tracefs out.
const GLOBAL: [u32; 4] = [8, 9, 10, DEBUGFS];

/// Whether a container may mount this type itself.
pub(super) fn may_mount(mount: &Mount, has_user_namespace: bool) -> bool {
    let is_global = GLOBAL.contains(&mount.fstype) && !has_user_namespace;
    let is_private = kind(mount).is_some_and(|kind| PRIVATE.contains(&kind));
    (is_private || is_global) && is_below(mount)
}

/// All mounts of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct All<'a> {
    /// Of the container's mount namespace.
    pub(super) container: &'a [Mount],
    /// Of mount namespaces within it.
    pub(super) nested: &'a [Mount],
}

/// A mount that CRIU makes before those that it binds from it.
#[derive(Debug)]
pub(super) struct Base<'a> {
    pub(super) mount: &'a Mount,
    /// Whether CRIU surely binds from the host's files that it shows, and mounts no new
    /// file system.
    pub(super) is_certain: bool,
    /// The path from its directory to that of the other mount.
    pub(super) path: Vec<u8>,
}

impl<'a> All<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = &'a Mount> {
        self.container.iter().chain(self.nested)
    }

    /// The mounts from which CRIU could bind a mount.
    ///
    /// The kernel's number of the file system must be the same. CRIU also compares the
    /// options, and without an external mount type and source (criu/mount.c,
    /// `mounts_sb_equal`), so these may be too many. It binds for certain if all of it is
    /// the same in every mount of that number; of one file system it is.
    pub(super) fn bases(self, mount: &'a Mount) -> impl Iterator<Item = Base<'a>> {
        let key = |mount: &'a Mount| (mount.fstype, &mount.source, &mount.options);
        let mut same = self.iter().filter(|other| other.root_dev == mount.root_dev);
        let is_same = same.all(|other| key(other) == key(mount));
        let is_one = is_same && canonical(&mount.root).is_some();
        let container = self.container.iter().map(|base| (base, is_hosts(base)));
        let nested = self.nested.iter().map(|base| (base, false));
        container.chain(nested).filter_map(move |(base, is_hosts)| {
            let is_first = is_hosts || base.ext_key.is_some() || base.root == b"/";
            if !is_first || base.mnt_id == mount.mnt_id || base.root_dev != mount.root_dev {
                return None;
            }
            Some(Base {
                mount: base,
                is_certain: is_hosts && is_one,
                path: below(&mount.root, &base.root)?,
            })
        })
    }

    /// The mounts that CRIU binds from the root or from an external one.
    pub(super) fn bound(self) -> HashSet<u32> {
        self.own()
            .filter(|mount| self.bases(mount).any(|base| base.is_certain))
            .map(|mount| mount.mnt_id)
            .collect()
    }

    /// The mounts that are neither the root nor external.
    pub(super) fn own(self) -> impl Iterator<Item = &'a Mount> {
        let container = self.container.iter().filter(|mount| !is_hosts(mount));
        let own = container.chain(self.nested);
        own.filter(|mount| mount.ext_key.is_none())
    }

    /// The root and the external mounts of a file system.
    pub(super) fn hosts(self, root_dev: u32) -> impl Iterator<Item = &'a Mount> {
        let of_device = move |mount: &&Mount| mount.root_dev == root_dev;
        let hosts = self.container.iter().filter(of_device);
        hosts.filter(|mount| is_hosts(mount))
    }

    /// A number that two mounts have.
    pub(super) fn ambiguous(self) -> Option<u32> {
        let mut seen = HashSet::new();
        self.iter()
            .map(|mount| mount.mnt_id)
            .find(|id| !seen.insert(*id))
    }
}

/// Whether a mount shows the host's files: it is the root, or external. A cover's
/// /dev/null is in the container's own /dev.
pub(super) fn is_hosts(mount: &Mount) -> bool {
    match &mount.ext_key {
        Some(key) => key != NULL.as_bytes(),
        None => mount.mountpoint == b"/",
    }
}

/// The rest of `path` below `above`, as CRIU compares them (criu/util.c,
/// `get_relative_path`): without needless slashes and dots, up to a zero.
fn below(path: &[u8], above: &[u8]) -> Option<Vec<u8>> {
    let mut rest = names(path);
    for name in names(above) {
        if rest.next() != Some(name) {
            return None;
        }
    }
    Some(rest.collect::<Vec<_>>().join(&b'/'))
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = path.iter().position(|byte| *byte == 0);
    let path = &path[..end.unwrap_or(path.len())];
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_below_another_by_whole_names() {
        assert_eq!(below(b"/a/b/c", b"/a"), Some(b"b/c".to_vec()));
        assert_eq!(below(b"/a", b"/a"), Some(Vec::new()));
        assert_eq!(below(b"/a/b", b"/"), Some(b"a/b".to_vec()));
        assert_eq!(below(b"/", b"/"), Some(Vec::new()));
        assert_eq!(below(b"/a/./b//c", b"//a\0x"), Some(b"b/c".to_vec()));
        assert_eq!(below(b"/ab", b"/a"), None);
        assert_eq!(below(b"/b", b"/a"), None);
    }
}
