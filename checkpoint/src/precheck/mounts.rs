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
//! A container with CAP_SYS_ADMIN makes mounts of its own. Of those only the type is
//! checked, which must be one whose instances belong to the container, and that no flag
//! or directory leads out of it. Such a container can mount the host's disks anyhow, if
//! the configuration gives it their devices.

use std::collections::{HashMap, HashSet};

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::granted::Mounts;
use super::messages::Mount;
use super::mount::{
    Difference, NULL, PRIVATE, PROC, READ_ONLY, TMPFS, canonical, differs, flags, is_below,
    is_controller, is_kind, is_terminal, kind, layers, unusual,
};
use super::nested;
use super::process::{Process, Processes};
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::{Dir, number};

/// The mounts of the container's mount namespace.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    pub(super) places: Vec<Place>,
    /// The IDs of all its mounts.
    pub(super) ids: HashSet<u32>,
    /// Directories that a container's own mounts show elsewhere.
    pub(super) binds: Vec<Vec<u8>>,
}

/// A mount of the container, with where its files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mountpoint: String,
    /// CRIU's number of the mount.
    pub(super) id: u32,
    pub(super) files: Files,
}

/// The origin of a mount's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Files {
    /// A file or directory of the host.
    Host(std::path::PathBuf),
    /// A tmpfs, whose files are in the checkpoint: the numbers that name its archive.
    Archive { device: u32, mount: u32 },
    /// Processes (proc(5)).
    Processes,
    /// The kernel's own files, none of which is a link that leads elsewhere.
    Kernel,
    /// A file system whose files can't be looked up before the restore.
    Unknown,
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
    let own: Vec<Mount> = match own {
        Some(id) => dir.all(&format!("mountpoints-{id}.img"))?,
        None => Vec::new(),
    };
    for name in dir.names()? {
        let is_own = |id: u32| init.is_some_and(|init| init.mount_namespace() == Some(id));
        let Some(id) = number::<u32>(&name, "mountpoints-").filter(|id| !is_own(*id)) else {
            continue;
        };
        if may_mount {
            nested::check(&dir.all(&name)?, &own, refusals);
        } else {
            refusals.checkpoint(
                &format!("has another mount namespace, {id}"),
                "the configuration gives the container one",
            );
        }
    }
    let mut found = Namespace::new(granted, &own, refusals);
    for mount in &own {
        found.check(mount);
    }
    found.covers();
    // The container's own mounts may hide others.
    if !may_mount {
        found.parents();
    }
    Ok(Mounted {
        ids: own.iter().map(|mount| mount.mnt_id).collect(),
        binds: found.binds,
        places: found.places,
    })
}

/// The checks of the container's mount namespace.
pub(super) struct Namespace<'a> {
    pub(super) mounts: &'a Mounts,
    /// All mounts of the namespace.
    pub(super) all: &'a [Mount],
    /// The file systems of the root and of the host's mounts.
    hosts: HashSet<u32>,
    binds: Vec<Vec<u8>>,
    /// Whether the container may make mounts of its own.
    pub(super) may_mount: bool,
    pub(super) refusals: &'a mut Refusals,
    /// How often each mountpoint was found.
    pub(super) found: HashMap<String, usize>,
    /// Mountpoints of covers and of read-only paths that are as they must be.
    pub(super) covered: HashSet<String>,
    places: Vec<Place>,
}

impl<'a> Namespace<'a> {
    fn new(granted: &'a Granted, all: &'a [Mount], refusals: &'a mut Refusals) -> Self {
        // A cover's /dev/null is in the container's own /dev.
        let is_hosts = |mount: &&Mount| match &mount.ext_key {
            Some(key) => key != NULL.as_bytes(),
            None => mount.mountpoint == b"/",
        };
        Self {
            mounts: &granted.mounts,
            all,
            hosts: all
                .iter()
                .filter(is_hosts)
                .map(|mount| mount.root_dev)
                .collect(),
            binds: Vec::new(),
            may_mount: granted.bounding.contains(CapabilitySet::SYS_ADMIN),
            refusals,
            found: HashMap::new(),
            covered: HashSet::new(),
            places: Vec::new(),
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
                id: mount.mnt_id,
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
        let Some(kind) = kind(mount) else {
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
            _ if self.may_mount && PRIVATE.contains(&kind) && is_below(mount) => {
                self.own_bind(mount);
            }
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
        Ok(match mount.fstype {
            PROC => Files::Processes,
            TMPFS => archive(mount),
            17 => Files::Unknown,
            _ => Files::Kernel,
        })
    }

    /// Notes the directory that a mount of the container's own shows: CRIU binds it from
    /// the mount that shows all of the file system, and follows links in its path.
    fn own_bind(&mut self, mount: &Mount) {
        let is_base = |base: &&Mount| base.root_dev == mount.root_dev && base.root == b"/";
        if mount.root != b"/"
            && let Some(base) = self.all.iter().find(is_base)
        {
            let base = base
                .mountpoint
                .strip_suffix(b"/")
                .unwrap_or(&base.mountpoint);
            self.binds.push([base, &mount.root].concat());
        }
    }

    fn is_hosts(&self, mount: &Mount) -> bool {
        self.hosts.contains(&mount.root_dev)
    }

    /// Whether a mount shows the directory of its file system that it is mounted on.
    fn is_own_directory(&self, mount: &Mount, mountpoint: &str) -> bool {
        let is_base = |base: &&Mount| {
            base.root_dev == mount.root_dev && base.root == b"/" && base.ext_key.is_none()
        };
        self.all.iter().filter(is_base).any(|base| {
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

/// A tmpfs, whose files are in the checkpoint.
fn archive(mount: &Mount) -> Files {
    Files::Archive {
        device: mount.root_dev,
        mount: mount.mnt_id,
    }
}
