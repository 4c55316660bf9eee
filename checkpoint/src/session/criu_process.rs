//! The CRIU process that a page source serves.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::host::process_tree::descendants;
use crate::host::sys;
use crate::session::kill::ends_within;
use cedana_contract::pid::Pid;

/// How long a CRIU that fails may take to clean up. It takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Criu {
    pid: Pid,
    process: OwnedFd,
}

impl Criu {
    /// The process at the other end of a connection; `None` if it has ended.
    pub(super) fn at(connection: &OwnedFd) -> Option<Self> {
        let pid = Pid::try_from(getsockopt(connection, PeerCredentials).ok()?.pid()).ok()?;
        let process = sys::pidfd_open(pid).ok()?;
        // While its end of the connection is open, its PID is not reused.
        let mut ready = [PollFd::new(connection.as_fd(), PollFlags::empty())];
        let gone = poll(&mut ready, PollTimeout::ZERO) != Ok(0);
        (!gone).then_some(Self { pid, process })
    }

    /// Waits until it has ended. If that takes too long, kills it and its
    /// descendants.
    pub(super) fn end_within(self, patience: Duration) {
        if ends_within(self.process.as_fd(), patience) {
            return;
        }
        let descendants = descendants(self.pid);
        for process in std::iter::once(self.process).chain(descendants) {
            let _ = sys::pidfd_kill(process.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    #[test]
    fn the_process_at_the_other_end_is_found() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let ours = ours.into();
        let found = Criu::at(&ours).map(|criu| criu.pid);
        assert_eq!(found, Some(Pid::own()));
        drop(theirs);
        // A child of another test's may have it until its exec.
        while Criu::at(&ours).is_some() {}
    }

    #[test]
    fn a_criu_that_takes_too_long_is_killed_with_its_children() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & wait"])
            .stdin(Stdio::null())
            .spawn()
            .expect("spawn");
        let pid = Pid::of(&child);
        let made = loop {
            let made = descendants(pid);
            if !made.is_empty() {
                break made;
            }
        };
        assert!(!ends_within(made[0].as_fd(), Duration::ZERO));
        Criu {
            pid,
            process: sys::pidfd_open(pid).expect("pidfd"),
        }
        .end_within(Duration::from_millis(10));
        assert!(ends_within(made[0].as_fd(), Duration::from_secs(60)));
        child.wait().expect("wait");
    }
}
