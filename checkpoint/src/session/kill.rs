//! Kills a container whose memory can't be given, and reports why.
//!
//! The reason is written before the kill, so that it is there when the end is
//! noticed: in the runtime's log, and in the bundle, where the shim looks when init
//! has ended.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use cedana_contract::files;
use cedana_contract::pid::Pid;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::messages::{Container, Startup};
use crate::host::cgroup::Cgroup;
use crate::host::process_tree::descendants;
use crate::host::{procfs, sys};
use crate::output::printable::printable;
use crate::output::report::Reporter;

/// How long the last process may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills all processes of a container, and returns when they have ended. `init` is
/// a descriptor that was opened while init was known to live.
pub(super) fn kill_container(container: &Container, init: BorrowedFd<'_>) {
    // The root of a hierarchy can't be frozen and so is not opened.
    let cgroup = container.cgroup.as_deref().and_then(Cgroup::open);
    let kill_processes = || match &cgroup {
        Some(cgroup) => kill_processes(cgroup),
        None => kill_members(&container.members),
    };
    kill_processes();
    let _ = sys::pidfd_kill(init);
    // Under cgroup v1 a frozen process does not die.
    if let Some(cgroup) = cgroup.as_ref().filter(|cgroup| cgroup.is_frozen()) {
        let _ = cgroup.thaw();
    }
    ends_within(init, PATIENCE);
    // Without a PID namespace of their own, processes outlive init, and fork.
    for _ in 0..100 {
        if !kill_processes() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills the processes of a tree without a cgroup and their descendants, and returns
/// whether there was one.
fn kill_members(members: &[(Pid, u64)]) -> bool {
    let mut found = false;
    for &(pid, started) in members {
        let descendants = descendants(pid);
        let Ok(process) = sys::pidfd_open(pid) else {
            continue;
        };
        let is_member = procfs::started(pid) == Some(started)
            && procfs::Stat::read(pid).is_some_and(|stat| !stat.is_dead());
        if is_member {
            found = true;
            for process in std::iter::once(process).chain(descendants) {
                let _ = sys::pidfd_kill(process.as_fd());
            }
        }
    }
    found
}

/// The number of pidfds that a kill has open at once.
const BATCH: usize = 32;

/// Kills the processes of a cgroup, and returns whether there was one.
///
/// The processes are no children of this one, so a PID may be another process's a
/// moment after it was listed. The pidfds are opened first, and the cgroup is listed
/// again: if a PID is still listed, its pidfd is either that of a process of the
/// cgroup or that of a process that has exited, which gets no signal.
fn kill_processes(cgroup: &Cgroup) -> bool {
    let processes = cgroup.processes();
    // A cgroup that the container shares with this process is left alone.
    let own = [nix::unistd::getpid(), nix::unistd::getppid()];
    if processes.iter().any(|&pid| own.contains(&pid.into())) {
        return false;
    }
    for batch in processes.chunks(BATCH) {
        let opened: Vec<_> = batch
            .iter()
            .filter(|pid| pid.as_raw() > 1)
            .filter_map(|&pid| Some((pid, sys::pidfd_open(pid).ok()?)))
            .collect();
        let members = cgroup.processes();
        for (_, process) in opened.iter().filter(|(pid, _)| members.contains(pid)) {
            let _ = sys::pidfd_kill(process.as_fd());
        }
    }
    !processes.is_empty()
}

/// Whether init has ended.
pub(super) fn ended(init: BorrowedFd<'_>) -> bool {
    ends_within(init, Duration::ZERO)
}

/// Whether a process ends in time.
pub(super) fn ends_within(process: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut ready, timeout), Ok(1..))
}

/// Where a kill is reported.
#[derive(Debug)]
pub(super) struct Report {
    id: String,
    dir: Option<PathBuf>,
    reporter: Reporter,
}

impl Report {
    pub(super) fn new(startup: &Startup) -> Self {
        Self {
            id: startup.id.clone(),
            dir: startup.report.clone(),
            reporter: Reporter::new("cedana-pages", startup.log.clone(), startup.log_json),
        }
    }

    /// Reports why the container is about to be killed. A report that can't be
    /// written does not stop the kill.
    pub(super) fn kill(&self, reason: &str) {
        let message = format!("container {} is killed: {reason}", self.id);
        self.reporter.error(&message);
        let Some(dir) = &self.dir else { return };
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.join(files::KILLED));
        // The shim logs it.
        let _ = file.and_then(|mut file| file.write_all(printable(reason).as_bytes()));
    }

    /// Writes a line to the runtime's log.
    pub(super) fn note(&self, message: &str) {
        let message = format!("container {}: {message}", self.id);
        self.reporter.note(&message);
    }
}

/// A descriptor of init that polls readable at its end: the one that the source
/// opened when it learned of the container, if it came that far.
pub(super) fn watch(container: &Container) -> Option<OwnedFd> {
    match container.pidfd {
        Some(fd) => {
            // SAFETY: it is in the table that source and watchdog share, and stays
            // open until both have ended.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fd.try_clone_to_owned().ok()
        }
        None => {
            let init = sys::pidfd_open(container.init).ok()?;
            // The PID may be another process's by now.
            let is_init = procfs::started(container.init) == container.started;
            is_init.then_some(init)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::pid;
    use std::process::Command;

    #[test]
    fn the_processes_of_a_cgroup_are_killed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).expect("write");
        write("cgroup.freeze", "0");
        let cgroup = Cgroup::open(dir.path()).expect("a cgroup");
        assert!(!kill_processes(&cgroup));
        let mut child = Command::new("sleep").arg("1000").spawn().expect("spawn");
        write("cgroup.procs", &format!("{}\n", Pid::of(&child)));
        assert!(kill_processes(&cgroup));
        assert!(!child.wait().expect("wait").success());
        // A cgroup that this process is in.
        write("cgroup.procs", &format!("{}\n", Pid::own()));
        assert!(!kill_processes(&cgroup));
    }

    #[test]
    fn a_process_with_the_pid_of_an_earlier_one_is_not_taken_for_it() {
        let container = |started| Container {
            init: Pid::own(),
            started,
            cgroup: None,
            members: Vec::new(),
            pidfd: None,
        };
        assert!(watch(&container(procfs::started(Pid::own()))).is_some());
        assert!(watch(&container(Some(1))).is_none());
        let missing = Container {
            init: pid(i32::MAX),
            ..container(None)
        };
        assert!(watch(&missing).is_none());
    }
}
