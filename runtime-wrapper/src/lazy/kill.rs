//! Ending a container whose memory can't be given, and saying why.
//!
//! The reason is written before the kill, so that whoever hears of the end finds
//! it: into the runtime's log, and into the bundle, where the shim looks when
//! init has ended.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cedana_contract::files;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::control::text;
use crate::host::cgroup::Cgroup;
use crate::host::sys;
use crate::output::report::Reporter;

/// How long the last process may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container that may have to be killed.
#[derive(Debug)]
pub(super) struct Doomed {
    /// Its own, not one that it shares with the node or with us.
    cgroup: Option<Cgroup>,
}

/// Whom to kill, for the ledger.
pub(super) fn describe(init: i32, cgroup: Option<&Path>) -> Value {
    json!({"say": "running", "init": init, "cgroup": cgroup})
}

impl Doomed {
    /// Reads a description.
    pub(super) fn read(container: &Value) -> Self {
        let cgroup = text(container, "cgroup").map(PathBuf::from);
        Self {
            // The root of a hierarchy can't be frozen and so is not opened.
            cgroup: cgroup.and_then(|dir| Cgroup::open(&dir)),
        }
    }

    /// Kills all of it, and returns when it is gone. `init` is watched through
    /// a descriptor that was opened while it was known to live.
    pub(super) fn kill(&self, init: BorrowedFd<'_>) {
        self.kill_processes();
        let _ = sys::pidfd_kill(init);
        // Under cgroup v1 a frozen process does not die.
        if let Some(cgroup) = self.cgroup.as_ref().filter(|cgroup| cgroup.is_frozen()) {
            let _ = cgroup.thaw();
        }
        ends_within(init, PATIENCE);
        // Those without a PID namespace of their own live on, and fork.
        for _ in 0..100 {
            if !self.kill_processes() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether there was anything to kill.
    fn kill_processes(&self) -> bool {
        let processes = self.cgroup.as_ref().map(Cgroup::processes);
        let processes = processes.unwrap_or_default();
        let ours = [std::process::id(), std::os::unix::process::parent_id()];
        if processes
            .iter()
            .any(|pid| ours.contains(&pid.cast_unsigned()))
        {
            return false;
        }
        for &pid in processes.iter().filter(|pid| **pid > 1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        !processes.is_empty()
    }
}

/// Whether init has ended.
pub(super) fn ended(init: BorrowedFd<'_>) -> bool {
    ends_within(init, Duration::ZERO)
}

/// Whether a process ends in time, by a descriptor on it.
pub(super) fn ends_within(process: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut ready, timeout), Ok(1..))
}

/// Whom to tell.
#[derive(Debug)]
pub(super) struct Mourners {
    id: String,
    bundle: PathBuf,
    reporter: Reporter,
}

impl Mourners {
    pub(super) fn new(settings: &Value) -> Self {
        let log = text(settings, "log").map(PathBuf::from);
        let json = settings.get("log_json").and_then(Value::as_bool);
        Self {
            id: text(settings, "id").unwrap_or_default().to_owned(),
            bundle: text(settings, "bundle").unwrap_or_default().into(),
            reporter: Reporter::new(log, json.unwrap_or_default()),
        }
    }

    /// Says why the container is about to be killed. What can't be written must
    /// not keep it alive.
    pub(super) fn tell(&self, reason: &str) {
        let message = format!("container {} is killed: {reason}", self.id);
        self.reporter.error(&message);
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.bundle.join(files::KILLED));
        let _ = file.and_then(|mut file| file.write_all(reason.as_bytes()));
    }

    /// One line about what went well.
    pub(super) fn note(&self, message: &str) {
        let message = format!("container {}: {message}", self.id);
        self.reporter.note(&message);
    }
}

/// A descriptor on init that polls readable at its end: the one that was opened
/// when the description came, if the source had time to.
pub(super) fn watch(container: &Value) -> Option<OwnedFd> {
    let number = |key| i32::try_from(container.get(key)?.as_i64()?).ok();
    match number("pidfd") {
        Some(fd) => {
            // SAFETY: it is in the table that source and guard share, and stays
            // open until both have ended.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fd.try_clone_to_owned().ok()
        }
        None => sys::pidfd_open(number("init")?).ok(),
    }
}
