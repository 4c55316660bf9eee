//! Reads the attributes of living tasks.
//!
//! /proc/PID/task/TID has no timer slack, and the other files of a task are found under its
//! ID like a process's (proc(5)).

use std::fs;

use cedana_contract::pid::Pid;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd;

use super::{Attributes, Task, VERSION, cpus, sockets};
use crate::host::{cgroup, procfs};
use crate::sys;

/// What tasks have that nothing was set for.
struct Usual {
    cpus: Option<CpuSet>,
    timer_slack: Option<u64>,
    core_dump_filter: Option<u32>,
}

impl Attributes {
    /// Reads those of a container's processes, whose init gives the PID namespace. A task
    /// that ends meanwhile is left out.
    #[must_use]
    pub fn of(processes: &[Pid], init: Pid) -> Self {
        let usual = Usual {
            cpus: usual_cpus(init),
            timer_slack: number(Pid::own(), "timerslack_ns"),
            core_dump_filter: hexadecimal(Pid::own(), "coredump_filter"),
        };
        let level = level(init);
        let tasks = processes.iter().flat_map(|pid| {
            let usual = &usual;
            threads(*pid)
                .into_iter()
                .filter_map(move |thread| task(thread, *pid, usual, level))
        });
        Self {
            version: VERSION,
            tasks: tasks.collect(),
            sockets: sockets::of(processes, init, |process| id(process, level)),
        }
    }
}

/// A task; `None` if all is as usual.
fn task(thread: Pid, process: Pid, usual: &Usual, level: usize) -> Option<Task> {
    let unless = |found: Option<u64>, usual: Option<u64>| found.filter(|_| found != usual);
    let task = Task {
        id: 0,
        cpus: affinity(thread, usual.cpus.as_ref()),
        io_priority: io_priority(thread),
        // 0 is a real-time thread's.
        timer_slack: unless(number(thread, "timerslack_ns"), usual.timer_slack)
            .filter(|slack| *slack > 0),
        core_dump_filter: match thread == process {
            true => hexadecimal(thread, "coredump_filter")
                .filter(|filter| Some(*filter) != usual.core_dump_filter),
            false => None,
        },
        autogroup_nice: match thread == process {
            true => autogroup(thread),
            false => None,
        },
    };
    if task == Task::default() {
        return None;
    }
    Some(Task {
        id: id(thread, level)?,
        ..task
    })
}

/// The CPUs that a thread was bound to, which are fewer than it could have.
fn affinity(thread: Pid, usual: Option<&CpuSet>) -> Option<String> {
    let set = sched_getaffinity(unistd::Pid::from_raw(thread.as_raw())).ok()?;
    let bound = Some(&set) != usual && Some(&cpus::common(&set, usual?)) == Some(&set);
    bound.then(|| cpus::list(&set))
}

/// The CPUs of init's cpuset that are online.
fn usual_cpus(init: Pid) -> Option<CpuSet> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let online = cpus::parse(&online)?;
    let allowed = cgroup::cpus(init).and_then(|list| cpus::parse(&list));
    Some(allowed.map_or(online, |allowed| cpus::common(&allowed, &online)))
}

/// The I/O priority that was set. Without one the kernel says that there is none, or what
/// the nice value amounts to (ioprio_get(2)).
fn io_priority(thread: Pid) -> Option<u16> {
    const BEST_EFFORT: i32 = 2 << 13;
    let found = sys::io_priority(thread.as_raw())?;
    let level = (sys::priority_of(thread.as_raw()) + 20) / 5;
    let was_set = found != 0 && found != BEST_EFFORT + level;
    found.try_into().ok().filter(|_| was_set)
}

/// The nice value of the autogroup of the session that a process leads: `/autogroup-7
/// nice 0`.
fn autogroup(process: Pid) -> Option<i8> {
    let text = fs::read_to_string(procfs::of(process).join("autogroup")).ok()?;
    let (_, nice) = text.trim().rsplit_once(' ')?;
    let nice = nice.parse().ok().filter(|nice| *nice != 0)?;
    let session = procfs::Stat::read(process)?.session;
    (session == Some(process)).then_some(nice)
}

fn number(thread: Pid, file: &str) -> Option<u64> {
    let text = fs::read_to_string(procfs::of(thread).join(file)).ok()?;
    text.trim().parse().ok()
}

fn hexadecimal(thread: Pid, file: &str) -> Option<u32> {
    let text = fs::read_to_string(procfs::of(thread).join(file)).ok()?;
    u32::from_str_radix(text.trim(), 16).ok()
}

/// The threads of a process.
pub(super) fn threads(process: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(procfs::of(process).join("task"));
    let entries = tasks.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The number of PID namespaces from this one to init's.
pub(super) fn level(init: Pid) -> usize {
    ids(init).len()
}

/// A thread's ID in the PID namespace of this level.
pub(super) fn id(thread: Pid, level: usize) -> Option<u32> {
    ids(thread).get(level.checked_sub(1)?).copied()
}

/// A thread's IDs, from this PID namespace's to its own (`NSpid`, proc_pid_status(5)).
fn ids(thread: Pid) -> Vec<u32> {
    let status = fs::read_to_string(procfs::of(thread).join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids = ids.unwrap_or_default().split_ascii_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}
