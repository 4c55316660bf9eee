//! Finds processes that CRIU can't seize, and waits for them to become seizable.
//!
//! CRIU seizes every process (`PTRACE_SEIZE`) and waits for it to stop. Three kinds of
//! process never stop: one that another process already traces, one that is stopped
//! while cgroup v1 freezes it, and one within vfork(2), which waits in the kernel for a
//! child that CRIU has stopped. The dump then hangs, with a frozen container, until
//! CRIU's time-out. So such processes are looked for before CRIU starts, while the
//! container runs.
//!
//! A debugger detaches, and a vfork ends with the child's exec, mostly within
//! microseconds. The kernel reports neither event, so the processes are polled. After
//! [`PATIENCE`] the checkpoint fails if the same vfork or tracer is still found. An
//! application that starts one program after the other has a vfork in progress at most
//! polls, and CRIU finds one in some of its attempts.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::cgroup::Version;
use crate::host::child::Signals;
use crate::host::procfs::{self, Stat, status_number};
use cedana_contract::pid::Pid;

/// The longest wait for a vfork or a tracer to end: longer than an application needs,
/// and short enough for a user without a message.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The time between two polls.
const PERIOD: Duration = Duration::from_millis(10);

/// System calls that, with `CLONE_VFORK`, return when the child has called exec or
/// ended.
const VFORKS: &[libc::c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// The kernel functions that wait for that child, in Linux 4.9 to 6.18.
const VFORK_WAITS: [&str; 3] = ["kernel_clone", "_do_fork", "wait_for_vfork_done"];

/// Why CRIU can't seize a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// SIGSTOP or a terminal's ^Z, on cgroup v1.
    Stopped,
    /// Another process traces it; `None` if that process is in another PID namespace.
    Traced(Option<Pid>),
    /// It waits for a child that has not called exec yet.
    Vfork,
}

impl Reason {
    fn is_temporary(self) -> bool {
        self != Self::Stopped
    }
}

/// A process that CRIU can't seize.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unseizable {
    pub(crate) pid: Pid,
    pub(crate) name: String,
    pub(crate) reason: Reason,
    /// Tells one vfork of a thread from its next: the thread, and its number of
    /// voluntary context switches.
    instance: (Pid, u64),
}

impl fmt::Display for Unseizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, .. } = self;
        write!(f, "process {pid} ({name}) ")?;
        match self.reason {
            Reason::Stopped => f.write_str(
                "is stopped, and CRIU would wait for it for ever; continue it (SIGCONT) first",
            ),
            Reason::Traced(tracer) => {
                f.write_str("is traced")?;
                if let Some(tracer) = tracer {
                    let stat = Stat::read(tracer);
                    let name = stat.map_or_else(String::new, |stat| format!(" ({})", stat.name));
                    write!(f, " by process {tracer}{name}")?;
                }
                f.write_str(", and CRIU can't trace it besides; detach the debugger first")
            }
            Reason::Vfork => f.write_str(
                "is within vfork and waits for its child to call exec, and CRIU can't stop it there; try again when the child has, or end the child",
            ),
        }
    }
}

/// The end of a wait.
pub(crate) enum Wait {
    /// Every process that was found first is seizable now.
    Clear,
    /// This process is not, after this time.
    Stays(Unseizable, Duration),
    /// A signal arrived.
    Interrupted,
}

/// Returns when `find` returns none of the processes of its first call, or after
/// [`PATIENCE`]. Calls `on_wait` with the first process if it has to wait.
pub(crate) fn wait(
    signals: &Signals,
    mut find: impl FnMut() -> Vec<Unseizable>,
    on_wait: impl FnOnce(&Unseizable),
) -> Wait {
    let begun = Instant::now();
    let mut on_wait = Some(on_wait);
    let mut remaining: Option<Vec<Unseizable>> = None;
    loop {
        let found = find();
        let waited = begun.elapsed();
        if let Some(lasting) = found.iter().find(|found| !found.reason.is_temporary()) {
            return Wait::Stays(lasting.clone(), Duration::ZERO);
        }
        let Some(first) = found.first() else {
            return Wait::Clear;
        };
        if let Some(on_wait) = on_wait.take() {
            on_wait(first);
        }
        let remaining = match &mut remaining {
            None => remaining.insert(found),
            Some(remaining) => {
                remaining.retain(|one| found.contains(one));
                remaining
            }
        };
        let Some(one) = remaining.first() else {
            return Wait::Clear;
        };
        if waited >= PATIENCE {
            return Wait::Stays(one.clone(), waited);
        }
        if !pause(signals, PERIOD) {
            return Wait::Interrupted;
        }
    }
}

/// Waits for this time. Returns false, at once, if a signal arrives.
pub(crate) fn pause(signals: &Signals, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up, since a time-out of 0 would poll without pause in the last
        // millisecond.
        let left = left.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) => return true,
            Err(Errno::EINTR) => {}
            // If poll fails, the caller continues.
            Err(_) => return true,
            Ok(_) => return false,
        }
    }
}

/// Why CRIU can't seize this process, `None` if it can. `is_dumped` says that CRIU dumps
/// the process, and not only freezes it with the container's cgroup.
pub(crate) fn check(
    pid: Pid,
    stat: &Stat,
    version: Version,
    is_dumped: bool,
) -> Option<Unseizable> {
    let found = |reason, instance| Unseizable {
        pid,
        name: stat.name.clone(),
        reason,
        instance,
    };
    if is_dumped {
        // With the v2 freezer CRIU interrupts a stopped process; with v1's it waits for
        // a stop that never comes.
        if version == Version::V1 && stat.state == 'T' {
            return Some(found(Reason::Stopped, (pid, 0)));
        }
        let status = fs::read_to_string(procfs::of(pid).join("status")).unwrap_or_default();
        // 0 means no tracer, or one in another PID namespace (proc_pid_status(5)).
        match status_number(&status, "TracerPid:") {
            Some(0) if stat.state == 't' => {
                return Some(found(Reason::Traced(None), (pid, 0)));
            }
            Some(tracer @ 1..) => {
                let tracer = u32::try_from(tracer)
                    .ok()
                    .and_then(|pid| pid.try_into().ok());
                return Some(found(Reason::Traced(tracer), (pid, 0)));
            }
            _ => {}
        }
    }
    let threads = fs::read_dir(procfs::of(pid).join("task")).ok()?;
    threads.flatten().find_map(|entry| {
        let thread = entry.path();
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let sleeps = Stat::parse(&read("stat"))?.state == 'D';
        if !sleeps || !is_within_vfork(&read("wchan"), &read("syscall")) {
            return None;
        }
        let number = entry.file_name().to_str()?.parse().ok()?;
        let slept = status_number(&read("status"), "voluntary_ctxt_switches:")?;
        Some(found(Reason::Vfork, (number, slept)))
    })
}

/// Whether a thread in uninterruptible sleep waits for its child of a vfork: by the
/// kernel function that it waits in, or, if that is hidden ("0", kernels without
/// symbols), by the system call. The call alone is not enough, because a frozen thread
/// keeps the number of the call that it is about to return from.
fn is_within_vfork(wchan: &str, call: &str) -> bool {
    let wchan = wchan.trim();
    if VFORK_WAITS.iter().any(|name| wchan.starts_with(name)) {
        return true;
    }
    let number = call.split(' ').next().and_then(|word| word.parse().ok());
    matches!(wchan, "" | "0") && number.is_some_and(|number: libc::c_long| VFORKS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;
    use proptest::prelude::*;

    fn traced(pid: Pid) -> Unseizable {
        Unseizable {
            pid,
            name: "app".to_owned(),
            reason: Reason::Traced(None),
            instance: (pid, 0),
        }
    }

    #[test]
    fn vforks_are_told_from_other_waits() {
        let call = format!("{} 0x7ffc53f8c410 0x58\n", libc::SYS_clone3);
        assert!(is_within_vfork("kernel_clone", &call));
        assert!(is_within_vfork("_do_fork\n", ""));
        assert!(is_within_vfork("0", &call));
        assert!(!is_within_vfork("0", "0 0x3 0x7ffc"));
        assert!(!is_within_vfork("0", "running"));
        // Frozen while it returns from the call.
        assert!(!is_within_vfork("__refrigerator", &call));
        assert!(!is_within_vfork("folio_wait_bit_common", &call));
    }

    #[test]
    fn tracers_are_waited_for_and_stopped_processes_are_not() {
        let signals = Signals::block().expect("signals");
        let mut polls = 0;
        let mut reports = 0;
        let end = wait(
            &signals,
            || {
                polls += 1;
                Vec::from_iter((polls < 4).then(|| traced(pid(7))))
            },
            |found| {
                assert_eq!(found.pid, pid(7));
                reports += 1;
            },
        );
        assert!(matches!(end, Wait::Clear));
        assert_eq!((polls, reports), (4, 1));

        let stopped = || {
            vec![Unseizable {
                reason: Reason::Stopped,
                ..traced(pid(8))
            }]
        };
        let end = wait(&signals, stopped, |_| panic!("there is no wait"));
        assert!(matches!(end, Wait::Stays(found, Duration::ZERO) if found.pid == pid(8)));

        let end = wait(&signals, || vec![traced(pid(7)), traced(pid(9))], |_| {});
        assert!(
            matches!(end, Wait::Stays(found, waited) if found.pid == pid(7) && waited >= PATIENCE)
        );
    }

    #[test]
    fn successive_vforks_do_not_fail_the_wait() {
        let signals = Signals::block().expect("signals");
        let mut slept = 0;
        let next = || {
            slept += 1;
            vec![Unseizable {
                reason: Reason::Vfork,
                instance: (pid(7), slept),
                ..traced(pid(7))
            }]
        };
        assert!(matches!(wait(&signals, next, |_| {}), Wait::Clear));
    }

    #[test]
    fn this_process_is_seizable() {
        let pid = Pid::own();
        let stat = Stat::read(pid).expect("alive");
        assert_eq!(check(pid, &stat, Version::V1, true), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(TracerPid:)?\\PC{0,40}") {
            let _ = is_within_vfork(&text, &text);
        }
    }
}
