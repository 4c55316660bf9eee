//! A mount namespace that a process of the container made, with CAP_SYS_ADMIN.

use super::messages::Mount;
use super::mount::{PRIVATE, kind, unusual};
use super::refusal::Refusals;

/// Checks the mounts of a namespace that a process of the container made: each is one of
/// the container's, or a file system of its own.
pub(super) fn check(mounts: &[Mount], own: &[Mount], refusals: &mut Refusals) {
    for mount in mounts {
        let is_same = |other: &Mount| {
            let key = |mount: &Mount| {
                (
                    mount.fstype,
                    mount.root_dev,
                    mount.flags & !other.flags & 0xf,
                )
            };
            key(mount) == (other.fstype, other.root_dev, 0)
                && other.flags & !mount.flags & 0xf == 0
                && other.root == mount.root
                && other.source == mount.source
                && other.options == mount.options
                && other.ext_key == mount.ext_key
        };
        let is_private = kind(mount).is_some_and(|kind| PRIVATE.contains(&kind));
        let is_new = is_private && mount.root == b"/" && mount.ext_key.is_none();
        let mountpoint = String::from_utf8_lossy(&mount.mountpoint);
        if unusual(mount).is_some() || !(is_new || own.iter().any(is_same)) {
            refusals.mount(
                &mountpoint,
                "may lead out of the container",
                "the container's own mounts don't",
            );
        }
    }
}
