//! A process and its descendants.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use crate::host::procfs::{self, Stat, descends};
use crate::host::sys;
use cedana_contract::pid::Pid;

/// All processes of the machine.
fn stats() -> HashMap<Pid, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::read(pid)?))
        })
        .collect()
}

/// The PIDs of all processes that descend from one, with their parents.
fn listed(pid: Pid) -> Vec<(Pid, Option<Pid>)> {
    let stats = stats();
    stats
        .iter()
        .filter(|(other, _)| **other != pid && descends(**other, pid, &stats))
        .map(|(&other, stat)| (other, stat.parent))
        .collect()
}

/// The PIDs of all processes that descend from one.
pub fn pids(pid: Pid) -> Vec<Pid> {
    listed(pid).into_iter().map(|(pid, _)| pid).collect()
}

/// A process and all that descend from it, each after its parent. Empty if the process
/// does not exist.
pub fn parents_first(root: Pid) -> Vec<(Pid, Stat)> {
    let mut stats = stats();
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (&pid, stat) in &stats {
        if let Some(parent) = stat.parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut ahead = vec![root];
    let mut found = Vec::new();
    while let Some(pid) = ahead.pop() {
        // Removed, so that PIDs that were reused meanwhile can't make a loop.
        let Some(stat) = stats.remove(&pid) else {
            continue;
        };
        found.push((pid, stat));
        ahead.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// All processes that descend from one.
pub fn descendants(pid: Pid) -> Vec<OwnedFd> {
    listed(pid)
        .into_iter()
        .filter_map(|(other, parent)| {
            let process = sys::pidfd_open(other).ok()?;
            // Still the same process.
            (Stat::read(other)?.parent == parent).then_some(process)
        })
        .collect()
}

/// Kills a child of this process, which must not be reaped yet, and its descendants.
pub fn kill(child: Pid) {
    let descendants = descendants(child);
    // The PID is the child's until it is reaped.
    for process in sys::pidfd_open(child).into_iter().chain(descendants) {
        let _ = sys::pidfd_kill(process.as_fd());
    }
}

/// The bytes that the descendants of a process have read and written so far, as
/// /proc/PID/io counts them (proc_pid_io(5)). It differs between two calls if they did
/// anything with files, pipes or sockets meanwhile, or if one of them has ended.
pub fn bytes_moved(pid: Pid) -> u64 {
    let moved = |pid| {
        let text = fs::read_to_string(procfs::of(pid).join("io")).ok()?;
        let number = |field| procfs::status_number(&text, field);
        number("rchar:")?.checked_add(number("wchar:")?)
    };
    listed(pid)
        .into_iter()
        .filter_map(|(pid, _)| moved(pid))
        .fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_copies_moves_bytes() {
        let mut copy = Command::new("sh")
            .args(["-c", "read line; echo $line; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let before = bytes_moved(Pid::own());
        copy.stdin
            .as_mut()
            .expect("stdin")
            .write_all(b"a\n")
            .expect("write");
        let mut line = [0; 2];
        copy.stdout
            .as_mut()
            .expect("stdout")
            .read_exact(&mut line)
            .expect("read");
        assert_ne!(bytes_moved(Pid::own()), before);
        kill(Pid::of(&copy));
        assert!(!copy.wait().expect("wait").success());
    }
}
