//! Is init still there shortly after a restore?
//!
//! CRIU reports success once the processes have been set going. One that can't
//! go on (a missing CPU feature, a sleep that comes back interrupted) ends in its
//! first moments, and the caller would be told of a running container.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::host::procfs::Stat;
use crate::host::sys;

/// Watches a process for as long as `settle`; nothing if it lives, otherwise how
/// it ended.
pub(crate) fn watch(pid: i32, settle: Duration) -> Option<String> {
    let gone = || Some("it is gone".to_owned());
    let pidfd = match sys::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return gone(),
        // Out of descriptors, say: that is not the container's fault.
        Err(_) => return None,
    };
    let timeout = PollTimeout::try_from(settle).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut ready, timeout) {
            Ok(0) => return None,
            Err(Errno::EINTR) => {}
            // A kernel that can't poll this can't tell; CRIU's word stands.
            Err(_) => return None,
            Ok(_) => break,
        }
    }
    match Stat::read(pid).and_then(|stat| stat.exit) {
        // A job whose last step was short has simply done it.
        Some(0) => None,
        Some(status) => Some(describe(status)),
        None => gone(),
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

/// The process id that a runtime wrote into its `--pid-file`.
pub(crate) fn pid_of(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn living_and_dead() {
        assert_eq!(
            watch(std::process::id().cast_signed(), Duration::ZERO),
            None
        );
        // Its pipe never closes while we hold it, so it cannot end by itself.
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let pid = child.id().cast_signed();
        assert_eq!(watch(pid, Duration::from_millis(1)), None);
        child.kill().expect("kill");
        assert_eq!(
            watch(pid, Duration::from_secs(60)).as_deref(),
            Some("killed by SIGKILL")
        );
        child.wait().expect("wait");
        assert_eq!(watch(pid, Duration::ZERO).as_deref(), Some("it is gone"));
    }

    #[test]
    fn statuses() {
        assert_eq!(describe(256), "exit code 1");
        assert_eq!(describe(11 | 0x80), "killed by SIGSEGV");
    }
}
