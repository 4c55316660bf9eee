//! Checks that init still runs shortly after a restore.
//!
//! CRIU reports success once the processes run. A process that can't continue (a
//! missing CPU feature, an interrupted sleep) exits within milliseconds, and without
//! this check the caller would see a running container.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::host::procfs::Stat;
use crate::host::sys;
use cedana_contract::pid::Pid;

/// Watches a process for the time `settle`. Returns how it ended, `None` if it still
/// runs or exited with code 0.
pub(crate) fn watch(pid: Pid, settle: Duration) -> Option<String> {
    let unknown = || Some("its exit status is unknown".to_owned());
    let pidfd = match sys::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return unknown(),
        // An error here, such as too many descriptors, is not the container's.
        Err(_) => return None,
    };
    let timeout = PollTimeout::try_from(settle).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut ready, timeout) {
            Ok(0) => return None,
            Err(Errno::EINTR) => {}
            // Without poll the check is impossible, and CRIU's success counts.
            Err(_) => return None,
            Ok(_) => break,
        }
    }
    match Stat::read(pid).and_then(|stat| stat.exit) {
        // A job may simply have finished.
        Some(0) => None,
        Some(status) => Some(describe(status)),
        None => unknown(),
    }
}

/// A wait status in words (wait(2)).
fn describe(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exit code {}", (status >> 8) & 0xff);
    }
    match Signal::try_from(signal) {
        Ok(signal) => format!("killed by {signal}"),
        Err(_) => format!("killed by signal {signal}"),
    }
}

/// The PID that a runtime wrote into its `--pid-file`.
pub(crate) fn pid_of(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn running_and_killed_processes() {
        assert_eq!(watch(Pid::own(), Duration::ZERO), None);
        // It does not end by itself while we hold its stdin open.
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let pid = Pid::of(&child);
        assert_eq!(watch(pid, Duration::from_millis(1)), None);
        child.kill().expect("kill");
        assert_eq!(
            watch(pid, Duration::from_secs(60)).as_deref(),
            Some("killed by SIGKILL")
        );
        child.wait().expect("wait");
        assert_eq!(
            watch(pid, Duration::ZERO).as_deref(),
            Some("its exit status is unknown")
        );
    }

    #[test]
    fn wait_statuses_are_described() {
        assert_eq!(describe(256), "exit code 1");
        assert_eq!(describe(11 | 0x80), "killed by SIGSEGV");
    }
}
