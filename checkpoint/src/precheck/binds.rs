//! The directories that CRIU binds from one mount to another.

use super::messages::Mount;
use super::mount::flags;
use super::mounts::Namespace;
use super::own::Bind;
use super::places::{Files, Place, as_path};

/// Read-only, nosuid, nodev and noexec.
const LOCKED: u32 = 0xf;

impl Namespace<'_> {
    /// Finds the files of the mounts that CRIU binds from the root and from external
    /// ones, and notes all directories that it binds.
    pub(super) fn bind(&mut self) {
        let of = |places: &[Place], id: u32| places.iter().find(|place| place.id == id).cloned();
        let before = self.places.clone();
        for mount in self.all.iter().filter(|mount| mount.ext_key.is_none()) {
            let Some(bound) = of(&before, mount.mnt_id) else {
                continue;
            };
            // The base of a bound mount is one of this mount, too.
            for base in self.all.bases(mount) {
                if self.bound.contains(&base.mount.mnt_id) {
                    continue;
                }
                let Some(from) = of(&before, base.mount.mnt_id) else {
                    continue;
                };
                if base.is_certain {
                    self.set(mount.mnt_id, files_below(&from.files, &base.path));
                    if self.has_user_namespace {
                        self.keeps_flags(&bound.mountpoint, mount, base.mount);
                    }
                }
                self.binds.push(Bind {
                    mountpoint: bound.mountpoint.clone(),
                    from: from.mountpoint,
                    files: from.files,
                    path: base.path,
                });
            }
        }
    }

    fn set(&mut self, id: u32, files: Files) {
        if let Some(place) = self.places.iter_mut().find(|place| place.id == id) {
            place.files = files;
        }
    }

    /// In a user namespace the flags that the host gave a mount are locked
    /// (mount_namespaces(7)).
    fn keeps_flags(&mut self, mountpoint: &str, mount: &Mount, base: &Mount) {
        if let Err((wants, _)) = flags(mount.flags, base.flags & LOCKED) {
            self.refuse(mountpoint, &wants, "the mount that it shows is");
        }
    }
}

/// The files of a directory of a mount.
fn files_below(files: &Files, path: &[u8]) -> Files {
    match files {
        Files::Host(base) => Files::Host(base.join(as_path(path))),
        other => other.clone(),
    }
}
