//! Processes in /proc (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use cedana_contract::pid::Pid;

/// The directory of a process in /proc.
pub fn of(pid: Pid) -> PathBuf {
    format!("/proc/{pid}").into()
}

/// The directory of a process or a thread in /proc, which lists processes only.
pub fn of_thread(id: u32) -> PathBuf {
    format!("/proc/{id}").into()
}

/// The path by which other processes open a descriptor of this one.
pub fn descriptor(fd: &(impl AsRawFd + ?Sized)) -> PathBuf {
    of(Pid::own()).join("fd").join(fd.as_raw_fd().to_string())
}

/// The used fields of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name: the first 15 bytes of its program's.
    pub name: String,
    /// Its state: R, S, D, T, t, Z, X, I.
    pub state: char,
    /// `None` for the first process of the machine.
    pub parent: Option<Pid>,
    /// The leader of its session, which may have ended. `None` if the leader is in
    /// a PID namespace above.
    pub session: Option<Pid>,
    /// The number of its threads.
    pub threads: u32,
    /// The wait status of a zombie.
    pub exit: Option<i32>,
}

impl Stat {
    /// Reads the fields; `None` if the process has ended.
    pub fn read(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(of(pid).join("stat")).ok()?)
    }

    /// The name is in parentheses and may contain any character, so the fields begin
    /// after the last parenthesis.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = process(fields.next()?)?;
        // Fields 6 and 20.
        let session = process(fields.nth(1)?)?;
        let threads = fields.clone().nth(13).and_then(|text| text.parse().ok());
        Some(Self {
            name: name.to_owned(),
            state,
            parent,
            session,
            threads: threads.unwrap_or(1),
            exit: (state == 'Z')
                .then(|| fields.last()?.parse().ok())
                .flatten(),
        })
    }

    /// Whether the process, or its main thread, has exited.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// A process of a stat file, in which 0 is none.
fn process(field: &str) -> Option<Option<Pid>> {
    match field {
        "0" => Some(None),
        pid => pid.parse().ok().map(Some),
    }
}

/// The fields of the processes that still exist.
pub fn stats_of(processes: &[Pid]) -> HashMap<Pid, Stat> {
    processes
        .iter()
        .filter_map(|&pid| Some((pid, Stat::read(pid)?)))
        .collect()
}

/// Whether a process is init or one of its descendants. Parents are looked up in
/// `stats`, and the number of steps is limited in case of a loop.
pub fn descends(pid: Pid, init: Pid, stats: &HashMap<Pid, Stat>) -> bool {
    let mut pid = pid;
    for _ in 0..=stats.len() {
        if pid == init {
            return true;
        }
        match stats.get(&pid) {
            Some(Stat {
                parent: Some(parent),
                ..
            }) => pid = *parent,
            _ => return false,
        }
    }
    false
}

/// The start time of a process, in clock ticks since boot. With the PID it identifies
/// a process even after the PID is reused.
pub fn started(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(of(pid).join("stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    // Field 22 (proc(5)); what follows the name begins with field 3.
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A container's init process, identified by PID and start time.
#[derive(Debug, Clone, Copy)]
pub struct Init {
    /// Its PID.
    pub pid: Pid,
    /// Its start time; `None` if it had ended.
    pub started: Option<u64>,
}

impl Init {
    /// The process with this PID now.
    pub fn now(pid: Pid) -> Self {
        Self {
            pid,
            started: started(pid),
        }
    }

    /// Whether it has ended, even if another process has its PID now.
    pub fn has_ended(self) -> bool {
        Stat::read(self.pid).is_none_or(|stat| stat.is_dead()) || started(self.pid) != self.started
    }
}

/// The bytes of a process's memory without a file, resident or swapped out: about the
/// size of its dump.
pub fn memory(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(of(pid).join("status")).ok()?;
    memory_in(&status)
}

/// The container's root directory as a process sees it.
pub fn root(pid: Pid) -> PathBuf {
    of(pid).join("root")
}

/// A number in /proc/PID/status (proc_pid_status(5)).
pub fn status_number(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().parse().ok()
}

/// The number of threads on this machine that run or wait for a core, without the
/// calling one. /proc/loadavg is "0.20 0.18 0.12 1/80 11206" (proc_loadavg(5)).
pub fn running_threads() -> Option<usize> {
    running_in(&fs::read_to_string("/proc/loadavg").ok()?)
}

fn running_in(loadavg: &str) -> Option<usize> {
    let (running, _) = loadavg.split(' ').nth(3)?.split_once('/')?;
    running.parse::<usize>().ok()?.checked_sub(1)
}

fn memory_in(status: &str) -> Option<u64> {
    let kib = |field: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(field))?;
        value.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    // A zombie has none of these fields (proc_pid_status(5)).
    let sum: Option<u64> = ["RssAnon:", "RssShmem:", "VmSwap:"]
        .into_iter()
        .map(kib)
        .sum();
    let huge = kib("HugetlbPages:").unwrap_or_default();
    Some(sum?.saturating_add(huge).saturating_mul(1024))
}

/// The number of files that a process may still open. Returns `enough`, without
/// counting the open files, if clearly more are free.
pub fn free_descriptors(pid: Pid, enough: usize) -> Option<usize> {
    let limits = fs::read_to_string(of(pid).join("limits")).ok()?;
    let status = fs::read_to_string(of(pid).join("status")).ok()?;
    let Some(limit) = open_files(&limits)? else {
        return Some(enough);
    };
    // The kernel's table grows when a number above its size is needed, so all numbers
    // above are free.
    let table_size = usize::try_from(status_number(&status, "FDSize:")?).ok()?;
    if limit.saturating_sub(table_size) >= enough {
        return Some(enough);
    }
    let used = fs::read_dir(of(pid).join("fd")).ok()?;
    let used = used
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number: &usize| *number < limit)
        .count();
    Some(limit.saturating_sub(used))
}

/// The soft limit of open files in /proc/PID/limits; `Some(None)` if it is unlimited.
fn open_files(limits: &str) -> Option<Option<usize>> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(None),
        number => Some(Some(number.parse().ok()?)),
    }
}

/// The inode of a process's network namespace.
pub fn netns_inode(pid: &str) -> std::io::Result<u64> {
    namespace_inode(pid, "net")
}

/// The inode of a process's namespace, by which the kernel identifies it.
pub fn namespace_inode(pid: &str, kind: &str) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata(format!("/proc/{pid}/ns/{kind}"))?.ino())
}

/// A process ID that a test made up.
#[cfg(test)]
pub fn pid(number: i32) -> Pid {
    number.try_into().expect("a process ID")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_may_contain_parentheses() {
        let stat = Stat::parse("42 (a) R 1 (x)) S 7 42 42 0 -1 0 0").expect("valid");
        assert_eq!(
            (stat.name.as_str(), stat.state, stat.parent),
            ("a) R 1 (x)", 'S', Some(pid(7)))
        );
        assert_eq!((stat.session, stat.threads), (Some(pid(42)), 1));
        assert_eq!(stat.exit, None);
    }

    fn stats(pairs: &[(i32, i32)]) -> HashMap<Pid, Stat> {
        let stat = |&(number, parent): &(i32, i32)| {
            let text = format!("{number} (x) S {parent} {number} {number} 0");
            (pid(number), Stat::parse(&text).expect("valid"))
        };
        pairs.iter().map(stat).collect()
    }

    #[test]
    fn exec_sessions_are_no_descendants() {
        let stats = stats(&[(10, 1), (11, 10), (12, 11), (20, 5), (21, 20)]);
        for number in [10, 11, 12] {
            assert!(descends(pid(number), pid(10), &stats));
        }
        for number in [20, 21] {
            assert!(!descends(pid(number), pid(10), &stats));
        }
    }

    #[test]
    fn reused_ids_cannot_loop() {
        assert!(!descends(pid(1), pid(9), &stats(&[(1, 2), (2, 1)])));
    }

    #[test]
    fn session_and_threads_are_read() {
        let text = "9 (x) S 7 8 6 0 -1 1 2 3 4 5 6 7 8 9 20 0 3 0 99 0";
        let stat = Stat::parse(text).expect("valid");
        assert_eq!(
            (stat.parent, stat.session, stat.threads),
            (Some(pid(7)), Some(pid(6)), 3)
        );
    }

    #[test]
    fn zombie_has_an_exit_status() {
        let stat = Stat::parse("42 (sh) Z 7 42 0 0 256").expect("valid");
        assert_eq!(stat.exit, Some(256));
    }

    #[test]
    fn memory_without_a_file_is_summed() {
        let status =
            "Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t7 kB\nRssShmem:\t 20 kB\nVmSwap:\t 3 kB\n";
        assert_eq!(memory_in(status), Some(123 << 10));
        let huge = format!("{status}HugetlbPages:\t    2048 kB\n");
        assert_eq!(memory_in(&huge), Some((123 + 2048) << 10));
        assert_eq!(memory_in("Name:\tzombie\n"), None);
    }

    #[test]
    fn limits_of_open_files() {
        let text = |soft: &str| {
            format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files            {soft}  4096 files\n"
            )
        };
        assert_eq!(open_files(&text("64")), Some(Some(64)));
        assert_eq!(open_files(&text("unlimited")), Some(None));
        assert_eq!(open_files("Max locked memory 8 8 bytes\n"), None);
        let status = "Name:\tx\nFDSize:\t256\n";
        assert_eq!(status_number(status, "FDSize:"), Some(256));
        assert_eq!(status_number(status, "TracerPid:"), None);
        let own = Pid::own();
        assert_eq!(free_descriptors(own, 4), Some(4));
        let few = free_descriptors(own, usize::MAX).expect("readable");
        assert!(few > 4, "{few}");
    }

    #[test]
    fn this_process_has_its_parent() {
        let stat = Stat::read(Pid::own()).expect("alive");
        assert_eq!(
            stat.parent,
            std::os::unix::process::parent_id().try_into().ok()
        );
    }

    #[test]
    fn running_threads_are_counted_without_the_caller() {
        assert_eq!(running_in("0.20 0.18 0.12 1/80 11206\n"), Some(0));
        assert_eq!(running_in("16.1 1.0 0.1 18/940 5\n"), Some(17));
        for text in [
            "",
            "0.20 0.18 0.12",
            "0 0 0 0/1 5",
            "0 0 0 x/1 5",
            "0 0 0 1 5",
        ] {
            assert_eq!(running_in(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = Stat::parse(&text);
            let _ = memory_in(&text);
            let _ = open_files(&text);
            let _ = status_number(&text, "FDSize:");
            let _ = running_in(&text);
        }
    }
}
