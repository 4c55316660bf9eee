//! Freezes a process and its descendants by SIGSTOP, and lets them run again by SIGCONT.
//!
//! A container has a cgroup with a freezer, whose processes notice nothing. A plain process
//! shares its cgroup with others, so signals are what is left: its parent may see that it
//! was stopped (waitpid(2), WUNTRACED), as a shell does.
//!
//! ```text
//! list the tree, parents first ──► SIGSTOP to each that runs ──┐
//!       ▲                                                      │ until two listings in a
//!       └──────────────────────────────────────────────────────┘ row are equal and stopped
//! ```
//!
//! A process may fork until its signal arrives, and a child may be born after /proc was
//! read past its number. If every process of a listing is stopped, the next one has all of
//! them, because stopped processes don't fork. Signals go by pidfd: a number that is used
//! again never gets one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::host::process_tree::parents_first;
use cedana_checkpoint::host::procfs::{self, Stat, namespace_inode};
use cedana_contract::pid::Pid;
use cedana_contract::pidfd;
use cedana_process::{Obstacle, traced, untouchable};
use nix::errno::Errno;

use super::{Failure, Kind};
use crate::supervisor::is_page_source;
use crate::sys::{has_exited, shares_memory};

/// How long the processes may take to stop. One that waits for a disk or a network file
/// system stops when its answer has come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two listings. The kernel has no event for the stop of a process that
/// is not a child.
const PAUSE: Duration = Duration::from_millis(1);

/// One call at a time: two that meet in one tree would undo each other.
static TURN: Mutex<()> = Mutex::new(());

/// The processes that are frozen together.
#[derive(Debug, Clone, Copy)]
enum Tree {
    /// A process and its descendants.
    From(Pid),
    /// The descendants of a job's supervisor. It is their subreaper, so those whose parent
    /// has ended are among them, and it runs on itself.
    Below(Pid),
}

/// Stops a process and its descendants.
///
/// # Errors
/// It is frozen already, can't be frozen, or did not stop in time. Then all that this call
/// has stopped run on.
pub(crate) fn freeze(root: i32) -> Result<(), Failure> {
    Tree::From(plain(root, "freeze")?).freeze()
}

/// Lets a process and its descendants run, also those that were stopped before the freeze.
///
/// # Errors
/// It is not frozen.
pub(crate) fn unfreeze(root: i32) -> Result<(), Failure> {
    Tree::From(plain(root, "unfreeze")?).unfreeze()
}

/// Stops all processes of the job of a supervisor.
///
/// # Errors
/// Those of [`freeze`].
pub(crate) fn freeze_job(supervisor: i32) -> Result<(), Failure> {
    Tree::Below(pid(supervisor)?).freeze()
}

/// Lets all processes of the job of a supervisor run.
///
/// # Errors
/// The job is not frozen.
pub(crate) fn unfreeze_job(supervisor: i32) -> Result<(), Failure> {
    Tree::Below(pid(supervisor)?).unfreeze()
}

fn pid(number: i32) -> Result<Pid, Failure> {
    Pid::try_from(number)
        .map_err(|_| Failure::new(Kind::Invalid, format!("{number} is not a process ID")))
}

/// The process, if it is one that may be stopped.
fn plain(root: i32, verb: &str) -> Result<Pid, Failure> {
    let root = pid(root)?;
    let refused = |reason: &dyn fmt::Display| {
        Failure::new(
            Kind::State,
            format!("cannot {verb} process {root}: {reason}"),
        )
    };
    match untouchable(root) {
        Some(Obstacle::Missing) => return Err(missing(root)),
        Some(obstacle) => return Err(refused(&obstacle)),
        None => {}
    }
    if state(root) == State::Ended {
        return Err(refused(&Obstacle::Dead));
    }
    let of = |pid: &str| namespace_inode(pid, "pid").ok();
    if of(&root.to_string()) != of("self") {
        return Err(refused(&format_args!(
            "it is in a PID namespace of a container or of a job that was restored; use `cedana {verb} runc`, `cedana {verb} containerd` or `cedana {verb} job`"
        )));
    }
    Ok(root)
}

fn missing(pid: Pid) -> Failure {
    Failure::new(Kind::NotFound, format!("there is no process {pid}"))
}

/// What all threads of a process do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At least one runs, or may.
    Running,
    /// At least one waits in the kernel, where no signal but SIGKILL reaches it. The others
    /// are stopped.
    Waiting,
    /// All are.
    Stopped,
    /// There is none; the process is a zombie or does not exist.
    Ended,
}

/// The state of a process. /proc/PID/stat alone has that of the main thread, which stops
/// before the others and may have exited before them.
fn state(pid: Pid) -> State {
    let threads = fs::read_dir(procfs::of(pid).join("task"));
    let stats = threads.into_iter().flatten().flatten().filter_map(|entry| {
        Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?)
            .filter(|stat| !stat.is_dead())
    });
    stats.fold(State::Ended, |all, stat| match (all, stat.state) {
        (State::Ended | State::Stopped, 'T') => State::Stopped,
        (State::Ended | State::Stopped | State::Waiting, 'D' | 'T') => State::Waiting,
        _ => State::Running,
    })
}

/// The states of processes that have not ended.
///
/// A process that has called vfork(2), as shells do for each command, waits until its
/// child has started a program. It can't do that if the child is stopped, so the process
/// counts as stopped, too.
fn states(tree: &[(Pid, Stat)]) -> BTreeMap<Pid, State> {
    let states = tree.iter().map(|(pid, _)| (*pid, state(*pid)));
    let mut states: BTreeMap<Pid, State> =
        states.filter(|(_, state)| *state != State::Ended).collect();
    // Children first: the child of a vfork may have called it, too.
    for (child, stat) in tree.iter().rev() {
        if let Some(parent) = stat.parent
            && states.get(child) == Some(&State::Stopped)
            && states.get(&parent) == Some(&State::Waiting)
            && shares_memory(*child, parent)
        {
            states.insert(parent, State::Stopped);
        }
    }
    states
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(root) => write!(f, "process {root}"),
            Self::Below(_) => f.write_str("the job"),
        }
    }
}

impl Tree {
    /// The processes that have not ended, each after its parent.
    fn listed(self) -> Vec<(Pid, Stat)> {
        let (Self::From(top) | Self::Below(top)) = self;
        let mut all = parents_first(top);
        all.retain(|(pid, _)| match self {
            Self::From(_) => true,
            // A page source goes on, so that the memory of a job that was restored arrives.
            Self::Below(supervisor) => *pid != supervisor && !is_page_source(pid.as_raw()),
        });
        all
    }

    fn freeze(self) -> Result<(), Failure> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (Self::From(top) | Self::Below(top)) = self;
        let held = pidfd::open(top).map_err(|error| match error {
            Errno::ESRCH => missing(top),
            error => self.failed("freeze", error),
        })?;
        let mut stopped = Stopped::default();
        self.stop(&held, &mut stopped)?;
        match stopped.keep() {
            0 => Err(Failure::new(
                Kind::State,
                format!("{self} is frozen already; `cedana unfreeze` lets it run"),
            )),
            _ => Ok(()),
        }
    }

    /// Stops all processes. The top is the one of this descriptor.
    fn stop(self, top: &OwnedFd, stopped: &mut Stopped) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        let mut before = None;
        loop {
            let tree = self.listed();
            if ended(top) {
                let text = format!("{self} has ended meanwhile");
                return Err(Failure::new(Kind::NotFound, text));
            }
            let states = states(&tree);
            let is_late = |pid| matches!(states.get(pid), Some(State::Running | State::Waiting));
            let late: Vec<&(Pid, Stat)> = tree.iter().filter(|(pid, _)| is_late(pid)).collect();
            if states.is_empty() {
                let text = format!("{self} has no process that runs");
                return Err(Failure::new(Kind::State, text));
            }
            let Some((pid, stat)) = late.first() else {
                if before.as_ref() == Some(&states) {
                    return Ok(());
                }
                before = Some(states);
                continue;
            };
            if Instant::now() > end {
                return Err(Failure::new(
                    Kind::System,
                    format!(
                        "cannot freeze {self}: process {pid} ({}) did not stop in {} s, and all run on; it may wait for a disk or a network, or start processes faster than they are stopped; try again",
                        stat.name,
                        PATIENCE.as_secs()
                    ),
                ));
            }
            before = None;
            for (pid, stat) in late {
                self.stop_one(*pid, stat, stopped)?;
            }
            thread::sleep(PAUSE);
        }
    }

    fn stop_one(self, pid: Pid, listed: &Stat, stopped: &mut Stopped) -> Result<(), Failure> {
        if let Some(obstacle) = traced(pid) {
            let text = format!("cannot freeze {self}: {obstacle}");
            return Err(Failure::new(Kind::State, text));
        }
        match stopped.stop(pid, listed) {
            // It has ended, so the next listing does not have it.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(self.failed(&format!("stop process {pid} of"), error)),
        }
    }

    fn unfreeze(self) -> Result<(), Failure> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = self.listed();
        if !tree.iter().any(|(pid, _)| state(*pid) == State::Stopped) {
            return Err(Failure::new(Kind::State, format!("{self} is not frozen")));
        }
        // Parents last, so that they don't see a child that is stopped.
        for (pid, stat) in tree.iter().rev() {
            let sent = same(*pid, stat).and_then(|fd| pidfd::signal(fd.as_fd(), libc::SIGCONT));
            match sent {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(self.failed(&format!("continue process {pid} of"), error));
                }
            }
        }
        Ok(())
    }

    fn failed(self, what: &str, error: Errno) -> Failure {
        let text = format!("cannot {what} {self}: {}", error.desc());
        Failure::new(Kind::System, text)
    }
}

/// Whether the process of a pidfd has exited. poll(2) of one descriptor does not fail.
fn ended(process: &OwnedFd) -> bool {
    has_exited(process.as_fd()).unwrap_or(false)
}

/// A descriptor of the process that was listed: it still has the same parent.
fn same(pid: Pid, listed: &Stat) -> nix::Result<OwnedFd> {
    let process = pidfd::open(pid)?;
    match Stat::read(pid) {
        Some(stat) if stat.parent == listed.parent => Ok(process),
        _ => Err(Errno::ESRCH),
    }
}

/// The processes that a call has stopped. Dropped, it lets them run, parents last.
#[derive(Default)]
struct Stopped(Vec<(Pid, OwnedFd)>);

impl Stopped {
    /// Stops a process, also one that another program has let run meanwhile.
    fn stop(&mut self, pid: Pid, listed: &Stat) -> nix::Result<()> {
        let known = self.0.iter().rev().find(|(known, _)| *known == pid);
        if let Some((_, process)) = known
            && !ended(process)
        {
            return pidfd::signal(process.as_fd(), libc::SIGSTOP);
        }
        let process = same(pid, listed)?;
        pidfd::signal(process.as_fd(), libc::SIGSTOP)?;
        self.0.push((pid, process));
        Ok(())
    }

    /// Leaves them stopped, and returns their number.
    fn keep(mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (_, process) in self.0.iter().rev() {
            // An error means that it has ended.
            let _ = pidfd::signal(process.as_fd(), libc::SIGCONT);
        }
    }
}

#[cfg(test)]
mod tests;
