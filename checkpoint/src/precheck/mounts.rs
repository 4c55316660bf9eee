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
use std::path::Path;

use super::capabilities::CapabilitySet;
use super::granted::Granted;
use super::granted::Mounts;
use super::messages::Mount;
use super::mount::{
    Difference, NULL, PRIVATE, PROC, READ_ONLY, TMPFS, canonical, differs, flags, is_below,
    is_controller, is_kind, is_own_directory, is_terminal, kind, unusual,
};
use super::process::Processes;
use super::refusal::Refusals;
use crate::images::Error;
use crate::images::dir::{Dir, number};

/// The mounts of the container's mount namespace.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    pub(super) places: Vec<Place>,
    /// The IDs of all its mounts.
    pub(super) ids: HashSet<u32>,
}

/// A mount of the container, with where its files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mountpoint: String,
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
    let own = init.and_then(|init| init.ids.as_ref()?.mnt_ns_id);
    let mut mounted = Mounted::default();
    for (name, _) in dir.files()? {
        let Some(id) = number::<u32>(&name, "mountpoints-") else {
            continue;
        };
        let mounts: Vec<Mount> = dir.all(&name)?;
        if Some(id) != own {
            // `namespaces` refuses a process in it without CAP_SYS_ADMIN.
            own_mounts(&mounts, refusals);
            continue;
        }
        let mut found = Namespace::new(granted, refusals);
        for mount in &mounts {
            found.check(mount);
        }
        found.covers();
        mounted.places = found.places;
        mounted.ids = mounts.iter().map(|mount| mount.mnt_id).collect();
    }
    Ok(mounted)
}

/// The checks of the container's mount namespace.
struct Namespace<'a> {
    mounts: &'a Mounts,
    /// Whether the container may make mounts of its own.
    may_mount: bool,
    refusals: &'a mut Refusals,
    /// How often each mountpoint was found.
    found: HashMap<String, usize>,
    /// Mountpoints of covers and of read-only paths that are as they must be.
    covered: HashSet<String>,
    places: Vec<Place>,
}

impl<'a> Namespace<'a> {
    fn new(granted: &'a Granted, refusals: &'a mut Refusals) -> Self {
        Self {
            mounts: &granted.mounts,
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
            Ok(files) => self.places.push(Place { mountpoint, files }),
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
        if masked && mount.fstype == TMPFS && mount.flags & READ_ONLY != 0 {
            self.covered.insert(mountpoint.to_owned());
            return Ok(Files::Kernel);
        }
        let read_only = mounts.read_only.iter().any(|path| path == mountpoint);
        if read_only && mount.fstype == PROC && is_own_directory(mount, mountpoint) {
            if mount.flags & READ_ONLY == 0 {
                return Err(differs(
                    "is writable",
                    "the configuration makes it read-only",
                ));
            }
            self.covered.insert(mountpoint.to_owned());
            return Ok(Files::Processes);
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
        if let Some((_, source)) = mounts.nested.iter().find(|(key, _)| key == mountpoint) {
            return Ok(Files::Host(source.clone()));
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
        flags(mount.flags, entry)?;
        Ok(match &entry.source {
            Some(source) => Files::Host(source.clone()),
            None => Files::Kernel,
        })
    }

    /// crun covers a directory with an empty one of its own.
    fn is_own_cover(&self, key: &str) -> bool {
        key.starts_with("/run/crun/") && !key.contains("..")
    }

    fn file_system(&self, mount: &Mount, mountpoint: &str) -> Result<Files, Difference> {
        let Some(kind) = kind(mount) else {
            return Err(differs(
                &format!("has a file system of type {}", mount.fstype),
                "the configuration has none there",
            ));
        };
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
                flags(mount.flags | sb_flags | base, entry)?;
            }
            _ if self.may_mount && PRIVATE.contains(&kind) && is_below(mount) => {}
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
            TMPFS => Files::Archive {
                device: mount.root_dev,
                mount: mount.mnt_id,
            },
            17 => Files::Unknown,
            _ => Files::Kernel,
        })
    }

    /// Refuses what is not covered, and what is mounted on top of something else.
    fn covers(&mut self) {
        let mounts = self.mounts;
        for path in mounts.masked.iter().chain(&mounts.read_only) {
            // Runtimes skip a path that doesn't exist. Those of the container's proc and
            // sysfs are the kernel's, so this machine tells.
            let is_kernels = path.starts_with("/proc/") || path.starts_with("/sys/");
            let exists = match is_kernels {
                true => Path::new(path).exists(),
                false => mounts.root.join(path.trim_start_matches('/')).exists(),
            };
            if exists && !self.covered.contains(path) {
                self.refusals
                    .mount(path, "is missing", "the configuration covers it");
            }
        }
        if self.may_mount {
            return;
        }
        let expected = |mountpoint: &str| {
            let entries = mounts.entries.iter();
            let entries = entries
                .filter(|entry| entry.destination == mountpoint)
                .count();
            let covers = mounts.masked.iter().chain(&mounts.read_only);
            let covers = covers.filter(|path| *path == mountpoint).count();
            entries + covers
        };
        let stacked: Vec<String> = self
            .found
            .iter()
            .filter(|(mountpoint, times)| **times > expected(mountpoint).max(1))
            // CRIU binds the host's uppermost mount for each of a stack (`external`).
            .filter(|(mountpoint, _)| !mounts.nested.iter().any(|(key, _)| key == *mountpoint))
            .map(|(mountpoint, _)| mountpoint.clone())
            .collect();
        for mountpoint in stacked {
            self.refuse(
                &mountpoint,
                "is there several times",
                "the configuration has it once",
            );
        }
    }

    fn refuse(&mut self, mountpoint: &str, wants: &str, gives: &str) {
        self.refusals.mount(mountpoint, wants, gives);
    }
}

/// Checks the mounts of a namespace that a process of the container made.
fn own_mounts(mounts: &[Mount], refusals: &mut Refusals) {
    for mount in mounts {
        let mountpoint = String::from_utf8_lossy(&mount.mountpoint);
        if let Some(what) = unusual(mount) {
            refusals.mount(
                &mountpoint,
                what,
                "no container of this configuration has such",
            );
        }
        let is_known = mount.ext_key.is_some() || mount.mountpoint == b"/" || kind(mount).is_some();
        if !is_known || !is_below(mount) {
            refusals.mount(
                &mountpoint,
                "may lead out of the container",
                "its mounts don't",
            );
        }
    }
}
