//! The mounts of the container.
//!
//! CRIU makes a mount from what the image says: type, source, options and flags of a
//! new file system, or the directory that is bound (criu/mount-v2.c). A source or an
//! option can name the host's files, since CRIU mounts in a copy of the host's mount
//! namespace. So each recorded mount must be one that the configuration has:
//!
//! ```text
//! the root            read-only where the configuration says so
//! a bind mount        external, its key is its own mountpoint, and flags as configured;
//!                     the runtime tells CRIU the host's path
//! a file system       the type that the configuration mounts there
//! a covered path      /dev/null, or an empty read-only tmpfs
//! a read-only path    the same directory of its file system, read-only
//! /dev/console        a terminal of the container's devpts
//! ```
//!
//! and no cover may be missing where this machine has the covered path.
//!
//! A container with CAP_SYS_ADMIN makes mounts of its own ([`own`](super::own)).

use std::collections::{HashMap, HashSet};

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::granted::Mounts;
use super::messages::Mount;
use super::mount::{
    Difference, NULL, PROC, READ_ONLY, TMPFS, canonical, differs, flags, is_controller, is_kind,
    is_terminal, kind, layers, unusual,
};
use super::own::{self, All, Bind};
use super::places::{Files, Place, archive, files_of};
use super::process::{Process, Processes};
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::{Dir, number};

/// The mounts of the container's mount namespaces.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    pub(super) places: Vec<Place>,
    /// The number of the container's mount namespace.
    pub(super) namespace: u32,
    /// The namespaces of mounts, by their IDs.
    pub(super) namespaces: HashMap<u32, u32>,
    /// Directories that a container's own mounts show elsewhere.
    pub(super) binds: Vec<Bind>,
}

/// Checks the mounts of every mount namespace. Returns those of the container's.
///
/// # Errors
/// An image is damaged.
pub(super) fn check(
    dir: &Dir<'_>,
    processes: &Processes,
    granted: &Granted,
    refusals: &mut Refusals,
) -> Result<Mounted, Error> {
    let init = processes.living.first();
    let own = init.and_then(Process::mount_namespace);
    let may_mount = granted.bounding.contains(CapabilitySet::SYS_ADMIN);
    let container: Vec<Mount> = match own {
        Some(id) => dir.all(&format!("mountpoints-{id}.img"))?,
        None => Vec::new(),
    };
    let mut nested = Vec::new();
    let mut namespaces: HashMap<u32, u32> = HashMap::new();
    let namespace = own.unwrap_or_default();
    namespaces.extend(container.iter().map(|mount| (mount.mnt_id, namespace)));
    for name in dir.names()? {
        let Some(id) = number::<u32>(&name, "mountpoints-").filter(|id| Some(*id) != own) else {
            continue;
        };
        if may_mount {
            let mounts: Vec<Mount> = dir.all(&name)?;
            namespaces.extend(mounts.iter().map(|mount| (mount.mnt_id, id)));
            nested.extend(mounts);
        } else {
            refusals.checkpoint(
                &format!("has another mount namespace, {id}"),
                "the configuration gives the container one",
            );
        }
    }
    let all = All {
        container: &container,
        nested: &nested,
    };
    if let Some(id) = all.ambiguous() {
        refusals.checkpoint(&format!("has two mounts {id}"), "each has its own number");
    }
    let mut found = Namespace::new(namespace, granted, all, refusals);
    for mount in &container {
        found.check(mount);
    }
    for mount in &nested {
        found.check_nested(namespaces[&mount.mnt_id], mount);
    }
    found.bind();
    found.covers();
    // The container's own mounts may hide others.
    if !may_mount {
        found.parents();
    }
    Ok(Mounted {
        namespace,
        namespaces,
        binds: found.binds,
        places: found.places,
    })
}

/// The checks of the container's mount namespaces.
pub(super) struct Namespace<'a> {
    pub(super) mounts: &'a Mounts,
    pub(super) all: All<'a>,
    /// Mounts that CRIU binds from the host's.
    pub(super) bound: HashSet<u32>,
    /// The file systems of the root and of the host's mounts.
    hosts: HashSet<u32>,
    pub(super) binds: Vec<Bind>,
    /// Whether the container may make mounts of its own.
    pub(super) may_mount: bool,
    pub(super) has_user_namespace: bool,
    pub(super) refusals: &'a mut Refusals,
    /// How often each mountpoint was found.
    pub(super) found: HashMap<String, usize>,
    /// Mountpoints of covers and of read-only paths that are as they must be.
    pub(super) covered: HashSet<String>,
    pub(super) places: Vec<Place>,
    /// The number of the container's.
    number: u32,
}

impl<'a> Namespace<'a> {
    fn new(number: u32, granted: &'a Granted, all: All<'a>, refusals: &'a mut Refusals) -> Self {
        let may_mount = granted.bounding.contains(CapabilitySet::SYS_ADMIN);
        Self {
            mounts: &granted.mounts,
            all,
            bound: all.bound(),
            hosts: all
                .container
                .iter()
                .filter(|mount| own::is_hosts(mount))
                .map(|mount| mount.root_dev)
                .collect(),
            binds: Vec::new(),
            may_mount,
            has_user_namespace: granted
                .namespaces
                .contains(&super::granted::Namespace::User),
            refusals,
            found: HashMap::new(),
            covered: HashSet::new(),
            places: Vec::new(),
            number,
        }
    }

    fn check(&mut self, mount: &Mount) {
        let shown = String::from_utf8_lossy(&mount.mountpoint).into_owned();
        let Some(mountpoint) = canonical(&mount.mountpoint) else {
            return self.refuse(
                &shown,
                "is no absolute path without links",
                "a mountpoint is",
            );
        };
        let mountpoint = mountpoint.to_owned();
        if let Some(what) = unusual(mount) {
            return self.refuse(
                &mountpoint,
                what,
                "no container of this configuration has such",
            );
        }
        let times = self.found.entry(mountpoint.clone()).or_default();
        *times += 1;
        let times = *times;
        match self.files(mount, &mountpoint, times) {
            Ok(files) => self.places.push(Place {
                mountpoint,
                namespace: self.number,
                id: mount.mnt_id,
                parent: mount.parent_mnt_id,
                files,
            }),
            Err((wants, gives)) => self.refuse(&mountpoint, &wants, &gives),
        }
    }

    /// The origin of a mount's files, or how it differs from the configuration.
    fn files(
        &mut self,
        mount: &Mount,
        mountpoint: &str,
        times: usize,
    ) -> Result<Files, Difference> {
        let mounts = self.mounts;
        if mountpoint == "/" && times == 1 {
            return match mounts.read_only_root && mount.flags & READ_ONLY == 0 {
                true => Err(differs(
                    "is writable",
                    "the configuration makes the root read-only",
                )),
                false => Ok(Files::Host(mounts.root.clone())),
            };
        }
        if let Some(key) = &mount.ext_key {
            return self.external(mount, mountpoint, key);
        }
        let masked = mounts.masked.iter().any(|path| path == mountpoint);
        let is_empty = mount.fstype == TMPFS && mount.root == b"/" && !self.is_hosts(mount);
        if masked && is_empty && mount.flags & READ_ONLY != 0 {
            self.covered.insert(mountpoint.to_owned());
            return Ok(archive(mount));
        }
        let read_only = mounts.read_only.iter().any(|path| path == mountpoint);
        if read_only && self.is_own_directory(mount, mountpoint) {
            if mount.flags & READ_ONLY == 0 {
                return Err(differs(
                    "is writable",
                    "the configuration makes it read-only",
                ));
            }
            self.covered.insert(mountpoint.to_owned());
            return Ok(match mount.fstype {
                PROC => Files::Processes,
                _ => Files::Unknown,
            });
        }
        if mounts.terminal && mountpoint == "/dev/console" && is_terminal(mount) {
            return Ok(Files::Kernel);
        }
        if self.may_mount && self.bound.contains(&mount.mnt_id) {
            // Known when all mounts are (`bind`).
            return Ok(Files::Unknown);
        }
        self.file_system(mount, mountpoint)
    }

    fn external(
        &mut self,
        mount: &Mount,
        mountpoint: &str,
        key: &[u8],
    ) -> Result<Files, Difference> {
        let mounts = self.mounts;
        let key = String::from_utf8_lossy(key);
        let masked = mounts.masked.iter().any(|path| path == mountpoint);
        if masked && (key == NULL || key == mountpoint || self.is_own_cover(&key)) {
            self.covered.insert(mountpoint.to_owned());
            return Ok(Files::Kernel);
        }
        if key != mountpoint {
            return Err(differs(
                &format!("is the host's mount for {key}"),
                "the configuration mounts that elsewhere",
            ));
        }
        if mounts.devices.iter().any(|path| path == mountpoint) {
            return Ok(Files::Kernel);
        }
        if let Some(nested) = mounts.nested.iter().find(|mount| mount.key == mountpoint) {
            flags(mount.flags, nested.flags)?;
            return Ok(Files::Host(nested.source.clone()));
        }
        let entry = mounts
            .entries
            .iter()
            .rfind(|entry| entry.destination == mountpoint || is_controller(entry, mountpoint));
        let Some(entry) = entry else {
            return Err(differs(
                "is a bind mount",
                "the configuration has none there",
            ));
        };
        flags(mount.flags, entry.flags)?;
        Ok(match &entry.source {
            Some(source) => Files::Host(source.clone()),
            None => Files::Kernel,
        })
    }

    /// crun covers a directory with an empty one of its own.
    fn is_own_cover(&self, key: &str) -> bool {
        key.starts_with("/run/crun/") && !key.contains("..")
    }

    fn file_system(&mut self, mount: &Mount, mountpoint: &str) -> Result<Files, Difference> {
        let is_own = self.may_mount && own::may_mount(mount, self.has_user_namespace);
        let Some(kind) = kind(mount) else {
            if is_own {
                return Ok(Files::Kernel);
            }
            return Err(differs(
                &format!("has a file system of type {}", mount.fstype),
                "the configuration has none there",
            ));
        };
        // CRIU would bind the other mount of the same file system.
        if ["tmpfs", "devpts", "overlay"].contains(&kind) && self.is_hosts(mount) {
            return Err(differs(
                "has the file system of the root or of a bind mount",
                "the configuration gives it one of its own",
            ));
        }
        let entry = self.mounts.entries.iter().rfind(|entry| {
            (entry.destination == mountpoint && is_kind(&entry.kind, kind))
                || (kind == "cgroup" && is_controller(entry, mountpoint))
        });
        match entry {
            // A new file system may be read-only itself.
            Some(entry) if mount.root == b"/" => {
                let sb_flags = mount.sb_flags.unwrap_or(0) & READ_ONLY;
                // On cgroup v1 runc makes only the controllers' mounts below read-only.
                let base = match entry.kind == "cgroup" && kind == "tmpfs" {
                    true => READ_ONLY,
                    false => 0,
                };
                flags(mount.flags | sb_flags | base, entry.flags)?;
                layers(mount, entry)?;
            }
            _ if is_own => {}
            _ if self.may_mount && kind.starts_with("cgroup") && mount.root == b"/" => {}
            Some(_) => {
                return Err(differs(
                    "shows another directory",
                    "the configuration mounts the whole file system",
                ));
            }
            None => {
                return Err(differs(
                    &format!("is a file system of type {kind}"),
                    "the configuration has none there",
                ));
            }
        }
        Ok(files_of(mount))
    }

    fn is_hosts(&self, mount: &Mount) -> bool {
        self.hosts.contains(&mount.root_dev)
    }

    /// Whether a mount shows the directory of its file system that it is mounted on.
    fn is_own_directory(&self, mount: &Mount, mountpoint: &str) -> bool {
        let is_base = |base: &&Mount| {
            base.root_dev == mount.root_dev && base.root == b"/" && base.ext_key.is_none()
        };
        self.all.container.iter().filter(is_base).any(|base| {
            let rest = mountpoint
                .as_bytes()
                .strip_prefix(base.mountpoint.as_slice());
            rest.is_some_and(|rest| {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                !rest.is_empty() && mount.root.strip_prefix(b"/") == Some(rest)
            })
        })
    }

    pub(super) fn refuse(&mut self, mountpoint: &str, wants: &str, gives: &str) {
        self.refusals.mount(mountpoint, wants, gives);
    }
}
