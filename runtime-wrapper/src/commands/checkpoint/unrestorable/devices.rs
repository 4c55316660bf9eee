//! Finds open tun and tap devices.
//!
//! CRIU stores a tun device with its network namespace. Runtimes exclude the namespace
//! from the dump, so the restore fails with "No tun device for file" (criu/tun.c). A
//! device that no process holds open belongs to the network, and an open /dev/net/tun
//! without a device can be restored.
//!
//! Reading ten thousand descriptors takes a tenth of a second, so they are read only if
//! the container's network has such a device or can't be read.

use std::fs::{self, DirEntry};
use std::path::Path;

use super::Inspected;
use crate::commands::checkpoint::doubt::Doubt;
use crate::host::procfs;
use cedana_contract::pid::Pid;

/// The path of the device below /dev (networking/tuntap.rst). CRIU recognizes it by the
/// end of a descriptor's link, too.
const TUN: &str = "net/tun";

pub(super) fn check(container: &Inspected<'_>) -> Option<Doubt> {
    if !may_have_device(&procfs::root(container.container.init)) {
        return None;
    }
    let (pid, device) = container.pids().into_iter().find_map(|pid| {
        let entries = fs::read_dir(procfs::of(pid).join("fd")).ok()?;
        let device = entries
            .flatten()
            .filter(is_tun)
            .find_map(|entry| attached(pid, &entry))?;
        Some((pid, device))
    })?;
    Some(Doubt::new(
        format!(
            "{} holds the tun device {device}, and CRIU can't restore it",
            container.name(pid)
        ),
        "end the process or have it close the device",
    ))
}

/// Whether the network of the container with this root may have a tun device. The
/// container's sysfs shows the network namespace that it was mounted in.
fn may_have_device(root: &Path) -> bool {
    let Ok(interfaces) = fs::read_dir(root.join("sys/class/net")) else {
        return true;
    };
    let interfaces: Vec<_> = interfaces.flatten().collect();
    interfaces.is_empty()
        || interfaces
            .iter()
            .any(|interface| interface.path().join("tun_flags").exists())
}

fn is_tun(entry: &DirEntry) -> bool {
    fs::read_link(entry.path()).is_ok_and(|target| target.ends_with(Path::new(TUN)))
}

/// The device that a descriptor of /dev/net/tun is attached to.
fn attached(pid: Pid, entry: &DirEntry) -> Option<String> {
    let fd = entry.file_name().into_string().ok()?;
    let info = fs::read_to_string(procfs::of(pid).join("fdinfo").join(fd)).ok()?;
    interface(&info)
}

/// The device in the line `iff:` that the tun driver adds to fdinfo
/// (drivers/net/tun.c); `None` if the descriptor has no device.
fn interface(fdinfo: &str) -> Option<String> {
    let name = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("iff:"))?
        .trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn descriptors_without_a_device_are_accepted() {
        let head = "pos:\t0\nflags:\t02\nmnt_id:\t29\nino:\t7\n";
        assert_eq!(
            interface(&format!("{head}iff:\ttun9\n")),
            Some("tun9".to_owned())
        );
        assert_eq!(interface(&format!("{head}iff:\t\n")), None);
        assert_eq!(interface(head), None);
    }

    #[test]
    fn networks_without_a_tun_device_are_recognized() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path();
        assert!(may_have_device(root), "without a sysfs");
        fs::create_dir_all(root.join("sys/class/net")).expect("mkdir");
        assert!(may_have_device(root), "empty");
        fs::create_dir(root.join("sys/class/net/lo")).expect("mkdir");
        assert!(!may_have_device(root));
        fs::create_dir(root.join("sys/class/net/tun0")).expect("mkdir");
        fs::write(root.join("sys/class/net/tun0/tun_flags"), "0x1").expect("write");
        assert!(may_have_device(root));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = interface(&text);
        }
    }
}
