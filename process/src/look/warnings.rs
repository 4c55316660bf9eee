//! What a restored process would have lost or would do differently, although CRIU dumps
//! and restores it without an error.
//!
//! CRIU's images have no place for these. A restored process gets what CRIU itself has, so
//! a value that equals this process's is not named.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use cedana_checkpoint::host::procfs::{self, Stat};
use cedana_contract::pid::Pid;
use nix::libc;

use super::descriptors;

/// `IOPRIO_WHO_PROCESS` of ioprio_get(2).
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Locks,
    Semaphores,
    Affinity,
    Priority,
    Slack,
    CoreFilter,
}

impl Loss {
    /// The loss, between the processes and the remedy.
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Locks => (
                "holds a POSIX lock on a file that it has mapped, and CRIU loses such a lock",
                "checkpoint it when the file is closed (SQLite: with journal_mode=DELETE); another process could write to the file after a restore",
            ),
            Self::Semaphores => (
                "has an eventfd that counts as a semaphore (EFD_SEMAPHORE), and CRIU restores it without that flag",
                "its next read takes the whole count",
            ),
            Self::Affinity => (
                "is bound to some processors, which is not in a checkpoint",
                "bind it again after a restore (taskset)",
            ),
            Self::Priority => (
                "has an I/O priority, which is not in a checkpoint",
                "set it again after a restore (ionice)",
            ),
            Self::Slack => (
                "has a timer slack of its own, which is not in a checkpoint",
                "it gets this program's",
            ),
            Self::CoreFilter => (
                "has a filter of its own for core dumps, which is not in a checkpoint",
                "it gets this program's",
            ),
        }
    }
}

/// Warns of what these processes would lose.
pub(super) fn of(processes: &[Pid], stats: &HashMap<Pid, Stat>) -> Vec<String> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut found: BTreeMap<Loss, Vec<Pid>> = BTreeMap::new();
    for pid in processes {
        for loss in losses(*pid, &locks) {
            found.entry(loss).or_default().push(*pid);
        }
    }
    let name = |pid: &Pid| stats.get(pid).map_or("?", |stat| stat.name.as_str());
    let text = |(loss, pids): (Loss, Vec<Pid>)| {
        let first = pids.first()?;
        let others = match pids.len() - 1 {
            0 => String::new(),
            1 => ", like one other process,".to_owned(),
            others => format!(", like {others} other processes,"),
        };
        let (what, remedy) = loss.text();
        Some(format!(
            "process {first} ({}){others} {what}; {remedy}",
            name(first)
        ))
    };
    found.into_iter().filter_map(text).collect()
}

fn losses(pid: Pid, locks: &str) -> Vec<Loss> {
    let read = |process: &str, file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    let threads = threads(pid);
    let is_other = |file: &str| {
        let theirs = read(&pid.to_string(), file).ok();
        theirs.is_some() && theirs != read("self", file).ok()
    };
    let processors = |status: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed:"));
        line.map(str::to_owned)
    };
    let own = processors(&read("self", "status").unwrap_or_default());
    let is_bound = |thread: &i32| {
        let status = read(&thread.to_string(), "status").unwrap_or_default();
        let theirs = processors(&status);
        theirs.is_some() && theirs != own
    };
    let maps = || read(&pid.to_string(), "maps").unwrap_or_default();
    let has = [
        (Loss::Locks, locks_mapped(pid, locks, maps)),
        (Loss::Semaphores, has_semaphore(pid)),
        (Loss::Affinity, threads.iter().any(is_bound)),
        (
            Loss::Priority,
            threads
                .iter()
                .any(|thread| priority(*thread) != priority(0)),
        ),
        (Loss::Slack, is_other("timerslack_ns")),
        (Loss::CoreFilter, is_other("coredump_filter")),
    ];
    let lost = has.into_iter().filter(|(_, has)| *has);
    lost.map(|(loss, _)| loss).collect()
}

fn threads(pid: Pid) -> Vec<i32> {
    let entries = fs::read_dir(procfs::of(pid).join("task"));
    let entries = entries.into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(number).collect()
}

fn priority(thread: i32) -> i64 {
    // SAFETY: ioprio_get takes two numbers.
    unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread) }
}

fn has_semaphore(pid: Pid) -> bool {
    descriptors::of(pid).iter().any(|descriptor| {
        descriptor.target == "anon_inode:[eventfd]"
            && descriptors::fdinfo(pid, descriptor.fd, "eventfd-semaphore:").as_deref() == Some("1")
    })
}

/// Whether a process has a POSIX lock of /proc/locks (proc_locks(5)) on a file of its maps
/// (proc_pid_maps(5)). Both name a file by device and inode in the same form.
fn locks_mapped(pid: Pid, locks: &str, maps: impl FnOnce() -> String) -> bool {
    let pid = pid.to_string();
    let file = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [_, "POSIX", _, _, owner, file, ..] if owner == pid => Some(file.to_owned()),
            _ => None,
        }
    };
    let locked: HashSet<String> = locks.lines().filter_map(file).collect();
    !locked.is_empty()
        && maps().lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(3);
            match (fields.next(), fields.next()) {
                (Some(device), Some(inode)) => locked.contains(&format!("{device}:{inode}")),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_mapped_file_is_found() {
        let pid = Pid::own();
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE {pid} fe:00:77 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} fe:00:78 0 EOF\n3: POSIX  ADVISORY  READ 1 fe:00:79 0 EOF\n"
        );
        let maps = |inode: &str| {
            format!(
                "7f00-7f01 r-xp 00000000 fe:00 1 /bin/x\n7f02-7f03 rw-s 00000000 fe:00 {inode} /a b\n7f04-7f05 rw-p 00000000 00:00 0\n"
            )
        };
        assert!(locks_mapped(pid, &locks, || maps("77")));
        assert!(!locks_mapped(pid, &locks, || maps("78")));
        assert!(!locks_mapped(pid, &locks, || maps("79")));
        assert!(!locks_mapped(pid, "", || panic!("read without need")));
    }

    #[test]
    fn this_process_loses_nothing_that_it_has_itself() {
        let losses = losses(Pid::own(), "");
        assert!(!losses.contains(&Loss::Slack) && !losses.contains(&Loss::CoreFilter));
        let warned = of(&[Pid::own()], &HashMap::new());
        assert_eq!(warned.len(), losses.len());
    }
}
