//! Paths in /proc (proc(5)).

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use cedana_contract::pid::Pid;

/// The directory of a process.
pub(crate) fn of(pid: Pid) -> PathBuf {
    format!("/proc/{pid}").into()
}

/// The link of one of the shim's descriptors, by which other processes can open it, too.
pub(crate) fn descriptor(fd: &impl AsRawFd) -> PathBuf {
    of(Pid::own()).join("fd").join(fd.as_raw_fd().to_string())
}

/// The mounts of the shim's mount namespace.
pub(crate) fn own_mounts() -> PathBuf {
    of(Pid::own()).join("mountinfo")
}
