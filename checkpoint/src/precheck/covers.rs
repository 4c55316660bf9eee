//! The covers of a container's file systems: that none is missing, and that no mount hides
//! another.

use std::path::Path;

use super::messages::Mount;
use super::mounts::Namespace;

impl Namespace<'_> {
    /// Refuses a mount below another one than its place says: it would be hidden, or
    /// hide a cover.
    pub(super) fn parents(&mut self) {
        let all = self.all.container;
        let is_above = |above: &Mount, mount: &Mount| {
            let rest = mount.mountpoint.strip_prefix(above.mountpoint.as_slice());
            rest.is_some_and(|rest| {
                above.mountpoint == b"/" || rest.is_empty() || rest.starts_with(b"/")
            })
        };
        let mut wrong = Vec::new();
        for mount in all.iter().filter(|mount| mount.mountpoint != b"/") {
            let others = all.iter().filter(|other| other.mnt_id != mount.mnt_id);
            let above = others.filter(|other| is_above(other, mount));
            let (mut nearest, mut parent) = (0, None);
            for other in above {
                // One on the same mountpoint is part of a stack.
                if other.mountpoint != mount.mountpoint {
                    nearest = nearest.max(other.mountpoint.len());
                }
                if other.mnt_id == mount.parent_mnt_id {
                    parent = Some(other.mountpoint.len());
                }
            }
            if parent.is_none_or(|length| length < nearest) {
                wrong.push(String::from_utf8_lossy(&mount.mountpoint).into_owned());
            }
        }
        for mountpoint in wrong {
            self.refuse(
                &mountpoint,
                "is below another mount than its path says",
                "the kernel records it",
            );
        }
    }

    /// Refuses what is not covered, and what is mounted on top of something else.
    pub(super) fn covers(&mut self) {
        let mounts = self.mounts;
        // A container that makes mounts removes them, too.
        if self.may_mount {
            return;
        }
        for path in mounts.masked.iter().chain(&mounts.read_only) {
            // Runtimes skip a path that doesn't exist. Those of the container's proc and
            // sysfs are the kernel's, so this machine tells.
            let is_kernels = path.starts_with("/proc/") || path.starts_with("/sys/");
            let exists = match is_kernels {
                true => Path::new(path).exists() && self.has_kernels(path),
                false => mounts.root.join(path.trim_start_matches('/')).exists(),
            };
            if exists && !self.covered.contains(path) {
                self.refusals
                    .mount(path, "is missing", "the configuration covers it");
            }
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
            .filter(|(mountpoint, _)| !mounts.nested.iter().any(|mount| mount.key == **mountpoint))
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

    /// Whether the container has the proc or sysfs that a path is in.
    fn has_kernels(&self, path: &str) -> bool {
        let top = if path.starts_with("/proc/") {
            "/proc"
        } else {
            "/sys"
        };
        self.found.contains_key(top)
    }
}
