//! Gives restored tasks their attributes again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io;

use cedana_contract::pid::Pid;
use nix::sched::sched_setaffinity;
use nix::unistd;

use super::record::{id, level, threads};
use super::sockets::{self, Socket};
use super::{Attributes, Task, cpus};
use crate::host::procfs;
use crate::sys;

/// Whether processes of the container may raise priorities themselves (CAP_SYS_NICE,
/// CAP_SYS_ADMIN). What only such a process could have set is put back for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// They may.
    Priorities,
    /// They may not.
    None,
}

/// Attributes that could not be put back.
#[derive(Debug)]
pub struct Failed {
    attribute: &'static str,
    /// The task's ID in the container.
    task: u32,
    error: io::Error,
    /// The number of others.
    others: usize,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attribute,
            task,
            error,
            others,
        } = self;
        write!(
            f,
            "the {attribute} of thread {task} can't be put back: {error}"
        )?;
        match others {
            0 => Ok(()),
            _ => write!(f, "; and {others} more attributes"),
        }
    }
}

/// The first failure, and the number of others.
#[derive(Default)]
struct Failures(Option<Failed>);

impl Failures {
    fn add(&mut self, task: u32, failed: Vec<(&'static str, io::Error)>) {
        for (attribute, error) in failed {
            match &mut self.0 {
                Some(first) => first.others += 1,
                None => {
                    self.0 = Some(Failed {
                        attribute,
                        task,
                        error,
                        others: 0,
                    });
                }
            }
        }
    }
}

impl Attributes {
    /// Puts them back. `processes` are those of the restored container; tasks that aren't
    /// theirs are never touched.
    ///
    /// # Errors
    /// Some could not be put back.
    pub fn put_back(
        &self,
        processes: &[Pid],
        init: Pid,
        privileges: Privileges,
    ) -> Result<(), Failed> {
        let tasks: HashMap<u32, &Task> = self.tasks.iter().map(|task| (task.id, task)).collect();
        // A hostile file may have many of one descriptor.
        let mut sockets: HashMap<u32, BTreeMap<i32, &Socket>> = HashMap::new();
        for socket in &self.sockets {
            let of_process = sockets.entry(socket.process).or_default();
            of_process.insert(socket.descriptor, socket);
        }
        let level = level(init);
        let mut failures = Failures::default();
        if tasks.is_empty() && sockets.is_empty() {
            return Ok(());
        }
        for process in processes {
            for thread in threads(*process) {
                let Some(id) = id(thread, level) else {
                    continue;
                };
                if let Some(task) = tasks.get(&id) {
                    failures.add(id, put_back(thread, task, privileges));
                }
                if let Some(sockets) = sockets.get(&id) {
                    failures.add(id, sockets::put_back(*process, sockets));
                }
            }
        }
        failures.0.map_or(Ok(()), Err)
    }
}

/// Puts a task's attributes back, and returns those that failed.
fn put_back(thread: Pid, task: &Task, privileges: Privileges) -> Vec<(&'static str, io::Error)> {
    let allowed = |allowed: bool| match allowed || privileges == Privileges::Priorities {
        true => Ok(()),
        false => Err(io::Error::other("the container has no CAP_SYS_NICE")),
    };
    let write = |file: &str, text: String| fs::write(procfs::of(thread).join(file), text);
    let done = [
        (
            "CPU affinity",
            task.cpus.as_deref().map(|list| affinity(thread, list)),
        ),
        (
            "I/O priority",
            task.io_priority.map(|priority| {
                const REAL_TIME: u16 = 1;
                allowed(priority >> 13 != REAL_TIME)?;
                sys::set_io_priority(thread.as_raw(), priority.into())
            }),
        ),
        (
            "timer slack",
            task.timer_slack
                .map(|slack| write("timerslack_ns", slack.to_string())),
        ),
        (
            "core dump filter",
            task.core_dump_filter
                .map(|filter| write("coredump_filter", format!("{filter:#x}"))),
        ),
        (
            "autogroup",
            task.autogroup_nice.map(|nice| {
                allowed(nice >= 0)?;
                write("autogroup", nice.to_string())
            }),
        ),
    ];
    let failed = done.into_iter().filter_map(|(attribute, done)| {
        let error = done?.err()?;
        Some((attribute, error))
    });
    failed.collect()
}

fn affinity(thread: Pid, list: &str) -> io::Result<()> {
    let set = cpus::parse(list).ok_or(io::ErrorKind::InvalidData)?;
    match sched_setaffinity(unistd::Pid::from_raw(thread.as_raw()), &set) {
        Err(nix::errno::Errno::EINVAL) => Err(io::Error::other(format!(
            "none of its CPUs, {list}, is available here"
        ))),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CpuSet, sched_getaffinity};
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_thread_has_its_attributes_again() {
        // Threads of one process: what belongs to the process stays out of it.
        let (ready, started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            let id = nix::unistd::gettid();
            let _ = ready.send(id);
            let _ = ended.recv();
        });
        let thread: Pid = started
            .recv()
            .expect("started")
            .as_raw()
            .try_into()
            .expect("an ID");
        let raw = unistd::Pid::from_raw(thread.as_raw());
        let all = sched_getaffinity(raw).expect("CPUs");
        let mut one = CpuSet::new();
        let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu) == Ok(true));
        one.set(first.expect("a CPU")).expect("room");
        let set = |cpus: &CpuSet, priority: i32, slack: &str| {
            sched_setaffinity(raw, cpus).expect("bound");
            sys::set_io_priority(thread.as_raw(), priority).expect("a priority");
            fs::write(procfs::of(thread).join("timerslack_ns"), slack).expect("a slack");
        };
        let state = || {
            let slack = fs::read_to_string(procfs::of(thread).join("timerslack_ns"));
            (
                sched_getaffinity(raw).expect("CPUs"),
                sys::io_priority(thread.as_raw()),
                slack.expect("a slack"),
            )
        };
        let before = state();
        set(&one, 2 << 13 | 6, "777777");
        let changed = state();
        let own = Pid::own();
        let recorded = Attributes::of(&[own], own);
        set(&all, 0, before.2.trim());
        assert_ne!(state(), changed);
        recorded
            .put_back(&[own], own, Privileges::None)
            .expect("put back");
        assert_eq!(state(), changed);
        drop(end);
        sleeper.join().expect("ended");
    }

    #[test]
    fn what_the_container_could_not_set_stays_as_it_is() {
        let own = Pid::own();
        let task = Task {
            id: 1,
            io_priority: Some(1 << 13),
            autogroup_nice: Some(-5),
            cpus: Some("1000-1023".to_owned()),
            ..Task::default()
        };
        let failed: Vec<String> = put_back(own, &task, Privileges::None)
            .into_iter()
            .map(|(attribute, error)| format!("{attribute}: {error}"))
            .collect();
        assert_eq!(
            failed,
            [
                "CPU affinity: none of its CPUs, 1000-1023, is available here",
                "I/O priority: the container has no CAP_SYS_NICE",
                "autogroup: the container has no CAP_SYS_NICE",
            ]
        );
    }
}
