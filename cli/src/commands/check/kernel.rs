//! What the kernel offers.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use cedana_checkpoint::lazy;

use super::Machine;
use super::finding::Finding;

/// The oldest kernel: pidfds, `close_range` with flags, id-mapped jobs (docs/cedana.md).
const OLDEST: (u32, u32) = (5, 11);

/// The kernel's release, such as 6.1.0-30-amd64.
fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// The first two numbers of a release.
pub(super) fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The version of the running kernel.
pub(super) fn running() -> Option<(u32, u32)> {
    numbers(&release())
}

pub(super) fn version() -> Finding {
    let release = release();
    let found = format!("Linux {}", release.trim());
    match numbers(&release) {
        Some(version) if version < OLDEST => Finding::missing(
            "kernel",
            found,
            format!("update it to Linux {}.{} or later", OLDEST.0, OLDEST.1),
        ),
        _ => Finding::fit("kernel", found),
    }
    .needed_for("everything")
}

/// The sysctl by which processes without a capability may use userfaultfd.
const UNPRIVILEGED: &str = "/proc/sys/vm/unprivileged_userfaultfd";

pub(super) fn userfaultfd(machine: &Machine) -> Finding {
    const CHECK: &str = "userfaultfd";
    let unprivileged = fs::read_to_string(UNPRIVILEGED).unwrap_or_default();
    let for_all = unprivileged.trim() == "1";
    match lazy::available() {
        Ok(()) => Finding::fit(
            CHECK,
            match for_all {
                true => "for all processes",
                false => "for root; containers in a user namespace are restored eagerly (sysctl vm.unprivileged_userfaultfd is 0)",
            },
        ),
        Err(error) if !machine.is_root && error.kind() == ErrorKind::PermissionDenied => {
            Finding::hidden(CHECK)
        }
        Err(error) => Finding::lesser(
            CHECK,
            format!("not usable: {error}; every restore is eager"),
            "use a kernel with CONFIG_USERFAULTFD, and allow the system call",
        ),
    }
    .needed_for("lazy restore")
}

pub(super) fn fuse(machine: &Machine) -> Finding {
    const CHECK: &str = "fuse";
    let device = Path::new("/dev/fuse");
    let opened = File::options().read(true).write(true).open(device);
    match opened {
        Ok(_) => Finding::fit(CHECK, device.display().to_string()),
        Err(error) if !machine.is_root && error.kind() == ErrorKind::PermissionDenied => {
            Finding::hidden(CHECK)
        }
        Err(error) => Finding::lesser(
            CHECK,
            format!(
                "cannot open {}: {error}; compressed memory is written to disk before an eager restore",
                device.display()
            ),
            "load the module: modprobe fuse",
        ),
    }
    .needed_for("fast eager restores")
}

pub(super) fn cgroups() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match freezer(&mounts) {
        Some(found) => Finding::fit("cgroups", found),
        None => Finding::missing(
            "cgroups",
            "no cgroup hierarchy with a freezer is mounted",
            "mount cgroup2 at /sys/fs/cgroup, as systemd does",
        ),
    }
    .needed_for("containers")
}

/// The hierarchy that runtimes freeze containers by: cgroup v2 at its usual place, or
/// that of v1's freezer.
fn freezer(mounts: &str) -> Option<&'static str> {
    let fields = || {
        mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
    };
    let is_v2 = |mount: &Vec<&str>| matches!(mount[..], [_, "/sys/fs/cgroup", "cgroup2", ..]);
    let is_v1 = |mount: &Vec<&str>| match mount[..] {
        [_, _, "cgroup", options, ..] => options.split(',').any(|option| option == "freezer"),
        _ => false,
    };
    if fields().any(|mount| is_v2(&mount)) {
        return Some("version 2");
    }
    fields()
        .any(|mount| is_v1(&mount))
        .then_some("version 1, with a freezer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions() {
        assert_eq!(numbers("6.1.0-30-amd64\n"), Some((6, 1)));
        assert_eq!(numbers("5.10.230+"), Some((5, 10)));
        assert_eq!(numbers("next"), None);
        assert!(running().is_some());
    }

    #[test]
    fn the_freezer_of_both_versions() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(freezer(v2), Some("version 2"));
        let v1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n";
        assert_eq!(freezer(v1), Some("version 1, with a freezer"));
        assert_eq!(freezer("cgroup /x cgroup rw,memory 0 0\nbad\n"), None);
    }
}
