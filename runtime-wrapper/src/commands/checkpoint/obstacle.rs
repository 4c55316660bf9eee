//! Processes that CRIU can't stop, found by looking at them.
//!
//! CRIU seizes every process (`PTRACE_SEIZE`) and waits for it to stop. Three
//! kinds of process never do: one that another process traces already, one that
//! is stopped while cgroup v1 freezes it, and one within vfork(2), which waits in
//! the kernel for a child that CRIU has stopped. The dump then stands still, and
//! the container with it, until CRIU's time-out. So such a process is looked for
//! before CRIU is started, while the container runs.
//!
//! A debugger detaches and a vfork ends with the child's exec, most of them within
//! microseconds. The kernel tells of neither, so they are looked at again in short
//! intervals, and after [`PATIENCE`] the process is named if it is the same vfork or
//! the same tracer still. An application that starts one program after the other has
//! a vfork in progress at most looks, and CRIU meets one in some of its attempts.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::cgroup::Version;
use crate::host::child::Signals;
use crate::host::procfs::Stat;

/// How long something that passes by itself is waited for. Longer than what an
/// application does in passing takes, shorter than what a person would wait for
/// without a word.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(10);

/// System calls that return when the child that they made has called exec or
/// ended, if they were asked to (`CLONE_VFORK`).
const VFORKS: &[libc::c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// Where the kernel waits for that child, under its names of Linux 4.9 to 6.18.
const VFORK_WAITS: [&str; 3] = ["kernel_clone", "_do_fork", "wait_for_vfork_done"];

/// What keeps a process from being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// SIGSTOP or a terminal's ^Z, on cgroup v1.
    Stopped,
    /// Another process traces it; its PID, if it can be seen from here.
    Traced(Option<i32>),
    /// It waits for a child that has not called exec yet.
    Vfork,
}

impl Obstacle {
    fn passes_by_itself(self) -> bool {
        self != Self::Stopped
    }
}

/// A process with an obstacle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) pid: i32,
    pub(crate) name: String,
    pub(crate) obstacle: Obstacle,
    /// Tells one vfork of a thread from its next: the thread, and how often it has
    /// gone to sleep.
    instance: (i32, u64),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, .. } = self;
        write!(f, "process {pid} ({name}) ")?;
        match self.obstacle {
            Obstacle::Stopped => f.write_str(
                "is stopped, and CRIU would wait for it for ever; continue it (SIGCONT) first",
            ),
            Obstacle::Traced(tracer) => {
                f.write_str("is traced")?;
                if let Some(tracer) = tracer {
                    let stat = Stat::read(tracer);
                    let name = stat.map_or_else(String::new, |stat| format!(" ({})", stat.name));
                    write!(f, " by process {tracer}{name}")?;
                }
                f.write_str(", and CRIU can't trace it besides; detach the debugger first")
            }
            Obstacle::Vfork => f.write_str(
                "is within vfork and waits for its child to call exec, and CRIU can't stop it there; try again when the child has, or end the child",
            ),
        }
    }
}

/// How a wait has ended.
pub(crate) enum Wait {
    /// Every obstacle that was there at first has passed.
    Clear,
    /// This one stays, after so long.
    Stays(Found, Duration),
    /// A signal came meanwhile.
    Interrupted,
}

/// Returns when nothing of what `look` found at first is there any more, or after
/// [`PATIENCE`]. `waits` is told of the first that is waited for.
pub(crate) fn wait(
    signals: &Signals,
    mut look: impl FnMut() -> Vec<Found>,
    waits: impl FnOnce(&Found),
) -> Wait {
    let begun = Instant::now();
    let mut waits = Some(waits);
    let mut staying: Option<Vec<Found>> = None;
    loop {
        let found = look();
        let waited = begun.elapsed();
        if let Some(lasting) = found
            .iter()
            .find(|found| !found.obstacle.passes_by_itself())
        {
            return Wait::Stays(lasting.clone(), Duration::ZERO);
        }
        let Some(first) = found.first() else {
            return Wait::Clear;
        };
        if let Some(waits) = waits.take() {
            waits(first);
        }
        let staying = match &mut staying {
            None => staying.insert(found),
            Some(staying) => {
                staying.retain(|one| found.contains(one));
                staying
            }
        };
        let Some(one) = staying.first() else {
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

/// Waits so long, or less if a signal comes: then it is false.
pub(crate) fn pause(signals: &Signals, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up: a wait of no time would never pass the last millisecond.
        let left = left.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) => return true,
            Err(Errno::EINTR) => {}
            // Without a way to wait, the caller goes on.
            Err(_) => return true,
            Ok(_) => return false,
        }
    }
}

/// What keeps CRIU from stopping this process, if anything does. `ours` says that
/// CRIU dumps the process, and not only finds it in the container's cgroup.
pub(crate) fn of(pid: i32, stat: &Stat, version: Version, ours: bool) -> Option<Found> {
    let found = |obstacle, instance| Found {
        pid,
        name: stat.name.clone(),
        obstacle,
        instance,
    };
    if ours {
        // With the v2 freezer CRIU interrupts a stopped process; with v1's it
        // waits for one that never comes.
        if version == Version::V1 && stat.state == 'T' {
            return Some(found(Obstacle::Stopped, (pid, 0)));
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        match number_in(&status, "TracerPid:") {
            Some(0) if stat.state == 't' => {
                return Some(found(Obstacle::Traced(None), (pid, 0)));
            }
            Some(tracer @ 1..) => {
                let tracer = i32::try_from(tracer).ok();
                return Some(found(Obstacle::Traced(tracer), (pid, 0)));
            }
            _ => {}
        }
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads.flatten().find_map(|entry| {
        let thread = entry.path();
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let sleeps = Stat::parse(&read("stat"))?.state == 'D';
        if !sleeps || !is_within_vfork(&read("wchan"), &read("syscall")) {
            return None;
        }
        let number = entry.file_name().to_str()?.parse().ok()?;
        let slept = number_in(&read("status"), "voluntary_ctxt_switches:")?;
        Some(found(Obstacle::Vfork, (number, slept)))
    })
}

/// A number in a `status` of /proc (proc_pid_status(5)). Of `TracerPid` 0 is none,
/// or one in another PID namespace.
fn number_in(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().parse().ok()
}

/// Whether a thread that sleeps without being interruptible waits for a child that
/// it made by vfork: by the kernel function that it waits in, or, where that is
/// hidden ("0", kernels without symbols), by the system call. The call alone would
/// not do: a frozen thread keeps the number of the one that it is about to return
/// from.
fn is_within_vfork(place: &str, call: &str) -> bool {
    let place = place.trim();
    if VFORK_WAITS.iter().any(|name| place.starts_with(name)) {
        return true;
    }
    let number = call.split(' ').next().and_then(|word| word.parse().ok());
    matches!(place, "" | "0") && number.is_some_and(|number: libc::c_long| VFORKS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn traced(pid: i32) -> Found {
        Found {
            pid,
            name: "app".to_owned(),
            obstacle: Obstacle::Traced(None),
            instance: (pid, 0),
        }
    }

    #[test]
    fn a_tracer_is_in_the_status() {
        let tracer = |status| number_in(status, "TracerPid:");
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\n"), Some(0));
        assert_eq!(tracer("PPid:\t1\nTracerPid:\t42\nUid:\t0\n"), Some(42));
        assert_eq!(tracer("Name:\tx\n"), None);
    }

    #[test]
    fn a_vfork_is_told_from_other_waits() {
        let call = format!("{} 0x7ffc53f8c410 0x58\n", libc::SYS_clone3);
        assert!(is_within_vfork("kernel_clone", &call));
        assert!(is_within_vfork("_do_fork\n", ""));
        assert!(is_within_vfork("0", &call));
        assert!(!is_within_vfork("0", "0 0x3 0x7ffc"));
        assert!(!is_within_vfork("0", "running"));
        // Frozen on its way out of the call.
        assert!(!is_within_vfork("__refrigerator", &call));
        assert!(!is_within_vfork("folio_wait_bit_common", &call));
    }

    #[test]
    fn what_passes_is_waited_for_and_what_stays_is_named() {
        let signals = Signals::block().expect("signals");
        let mut looks = 0;
        let mut told = 0;
        let end = wait(
            &signals,
            || {
                looks += 1;
                Vec::from_iter((looks < 4).then(|| traced(7)))
            },
            |found| {
                assert_eq!(found.pid, 7);
                told += 1;
            },
        );
        assert!(matches!(end, Wait::Clear));
        assert_eq!((looks, told), (4, 1));

        let stopped = || {
            vec![Found {
                obstacle: Obstacle::Stopped,
                ..traced(8)
            }]
        };
        let end = wait(&signals, stopped, |_| panic!("it does not pass"));
        assert!(matches!(end, Wait::Stays(found, Duration::ZERO) if found.pid == 8));

        let end = wait(&signals, || vec![traced(7), traced(9)], |_| {});
        assert!(matches!(end, Wait::Stays(found, waited) if found.pid == 7 && waited >= PATIENCE));
    }

    #[test]
    fn one_vfork_after_the_other_is_none_that_stays() {
        let signals = Signals::block().expect("signals");
        let mut slept = 0;
        let next = || {
            slept += 1;
            vec![Found {
                obstacle: Obstacle::Vfork,
                instance: (7, slept),
                ..traced(7)
            }]
        };
        assert!(matches!(wait(&signals, next, |_| {}), Wait::Clear));
    }

    #[test]
    fn this_process_has_no_obstacle() {
        let pid = std::process::id().cast_signed();
        let stat = Stat::read(pid).expect("alive");
        assert_eq!(of(pid, &stat, Version::V1, true), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(TracerPid:)?\\PC{0,40}") {
            let _ = number_in(&text, "TracerPid:");
            let _ = is_within_vfork(&text, &text);
        }
    }
}
