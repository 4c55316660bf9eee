//! Mount namespaces that processes of the container made, with CAP_SYS_ADMIN.
//!
//! Each of their mounts is one of the container's, or one that it may make itself
//! ([`own`](super::own)). Their mountpoints are not compared, and covers may be missing.

use super::messages::Mount;
use super::mount::{canonical, unusual};
use super::mounts::Namespace;
use super::own;
use super::places::{Files, Place, files_of};

impl Namespace<'_> {
    /// Checks a mount of a namespace within the container's.
    pub(super) fn check_nested(&mut self, namespace: u32, mount: &Mount) {
        let mountpoint = String::from_utf8_lossy(&mount.mountpoint).into_owned();
        let is_plain = canonical(&mount.mountpoint).is_some();
        match self.nested_files(mount).filter(|_| is_plain) {
            Some(files) => self.places.push(Place {
                mountpoint,
                namespace,
                id: mount.mnt_id,
                parent: mount.parent_mnt_id,
                files,
            }),
            None => self.refuse(
                &mountpoint,
                "may lead out of the container",
                "the container's own mounts don't",
            ),
        }
    }

    fn nested_files(&mut self, mount: &Mount) -> Option<Files> {
        if unusual(mount).is_some() {
            return None;
        }
        if mount.ext_key.is_none() {
            if self.bound.contains(&mount.mnt_id) {
                return Some(Files::Unknown);
            }
            if own::may_mount(mount, self.has_user_namespace) {
                return Some(files_of(mount));
            }
        }
        let is_same = |other: &&Mount| {
            let key = |mount: &Mount| (mount.fstype, mount.root_dev);
            key(mount) == key(other)
                && (!self.has_user_namespace || other.flags & !mount.flags & 0xf == 0)
                && other.root == mount.root
                && other.source == mount.source
                && other.options == mount.options
                && other.ext_key == mount.ext_key
        };
        let same = self.all.container.iter().find(is_same)?;
        let place = self.places.iter().find(|place| place.id == same.mnt_id)?;
        Some(place.files.clone())
    }
}
