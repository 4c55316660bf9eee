//! The directories that CRIU binds from one mount to another.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::statfs;

use super::messages::Mount;
use super::mount::flags;
use super::mounts::Namespace;
use super::own::Bind;
use super::places::{Files, Place, as_path};

/// Read-only, nosuid, nodev and noexec.
const LOCKED: u32 = 0xf;
/// `MS_NOSUID`.
const NOSUID: u32 = 2;

/// CRIU's numbers of cgroup v1 and v2.
const CGROUPS: [u32; 2] = [12, 23];

/// CRIU's numbers (mnt.proto) of the kernel's file systems that may have one number in
/// container and host, and what statfs(2) calls them (linux/magic.h): proc before Linux
/// 5.8, sysfs, pstore, securityfs, fusectl, debugfs, cgroup, mqueue, cgroup2.
const MAGICS: [(u32, i64); 9] = [
    (1, 0x9fa0),
    (2, 0x6265_6572),
    (8, 0x6165_676c),
    (9, 0x7363_6673),
    (10, 0x6573_5543),
    (11, 0x6462_6720),
    (12, 0x0027_e0eb),
    (14, 0x1980_0202),
    (23, 0x6367_7270),
];

impl Namespace<'_> {
    /// Finds the files of the mounts that CRIU binds from the root and from external
    /// ones, and notes all directories that it binds.
    pub(super) fn bind(&mut self) {
        let before: HashMap<u32, Place> = self
            .places
            .iter()
            .map(|place| (place.id, place.clone()))
            .collect();
        for mount in self.all.own() {
            let Some(place) = before.get(&mount.mnt_id) else {
                continue;
            };
            match self.bound.contains(&mount.mnt_id) {
                true => self.hosts_directory(mount, place, &before),
                false => self.apart_from_hosts(mount, place, &before),
            }
            // The base of a bound mount is one of this mount, too.
            let bases = self.all.bases(mount);
            for base in bases.filter(|base| !self.bound.contains(&base.mount.mnt_id)) {
                if let Some(from) = before.get(&base.mount.mnt_id) {
                    self.binds.push(Bind {
                        mountpoint: place.mountpoint.clone(),
                        from: from.mountpoint.clone(),
                        files: from.files.clone(),
                        path: base.path,
                    });
                }
            }
            // tar(1) unpacks set-user-ID programs, too.
            if matches!(place.files, Files::Archive { .. }) && mount.flags & NOSUID == 0 {
                self.binds.push(Bind {
                    mountpoint: place.mountpoint.clone(),
                    from: place.mountpoint.clone(),
                    files: place.files.clone(),
                    path: Vec::new(),
                });
            }
        }
    }

    /// Finds the directory that a bound mount shows. CRIU binds from the first base that
    /// is mounted, so all of them must show the same.
    fn hosts_directory(&mut self, mount: &Mount, place: &Place, before: &HashMap<u32, Place>) {
        let mut origins: Vec<Files> = Vec::new();
        let mut is_certain = true;
        for base in self.all.bases(mount) {
            if self.bound.contains(&base.mount.mnt_id) {
                continue;
            }
            is_certain &= base.is_certain;
            if let Some(from) = before.get(&base.mount.mnt_id) {
                origins.push(files_below(&from.files, &base.path));
            }
            if self.has_user_namespace {
                self.keeps_flags(&place.mountpoint, mount, base.mount);
            }
        }
        let Some((first, others)) = origins.split_first() else {
            return;
        };
        if !is_certain || others.iter().any(|other| !is_same(first, other)) {
            return self.refuse(
                &place.mountpoint,
                "shows one of several directories",
                "a file system has one directory of a name",
            );
        }
        self.set(mount.mnt_id, first.clone());
    }

    /// Refuses a file system of its own that has the number of a host's: CRIU could bind
    /// the host's directory in its place, and compares neither type nor source with an
    /// external mount. Only a file system of which the kernel has one, such as sysfs, is
    /// also the host's.
    fn apart_from_hosts(&mut self, mount: &Mount, place: &Place, before: &HashMap<u32, Place>) {
        let hosts = self.all.hosts(mount.root_dev);
        let mut places = hosts.filter_map(|host| before.get(&host.mnt_id));
        if places.any(|host| !is_kernels(mount, &host.files)) {
            self.refuse(
                &place.mountpoint,
                "has the file system of the root or of a bind mount",
                "the configuration gives it one of its own",
            );
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

/// Whether two origins are the same directory or file.
fn is_same(one: &Files, other: &Files) -> bool {
    match (one, other) {
        (Files::Host(one), Files::Host(other)) => {
            let number = |path: &Path| {
                let metadata = fs::symlink_metadata(path).ok()?;
                Some((metadata.dev(), metadata.ino()))
            };
            one == other || number(one).is_some_and(|one| number(other) == Some(one))
        }
        _ => one == other,
    }
}

/// Whether the host's files are those of the kernel's file system that a mount has.
fn is_kernels(mount: &Mount, files: &Files) -> bool {
    let magic = MAGICS.iter().find(|(number, _)| *number == mount.fstype);
    match (magic, files) {
        (Some((_, magic)), Files::Host(path)) => {
            statfs(path).is_ok_and(|found| found.filesystem_type().0 == *magic)
        }
        // The runtime binds the controllers of cgroup v1.
        (Some((number, _)), Files::Kernel) => CGROUPS.contains(number),
        _ => false,
    }
}

/// The files of a directory of a mount.
fn files_below(files: &Files, path: &[u8]) -> Files {
    match files {
        Files::Host(base) => Files::Host(base.join(as_path(path))),
        other => other.clone(),
    }
}
