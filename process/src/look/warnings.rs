//! What a restored process would have lost or would do differently, although CRIU dumps
//! and restores it without an error.
//!
//! CRIU's images have no place for these, and only the process itself could set them again.
//! What can be set from outside is put back (`cedana_checkpoint::attributes`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use cedana_checkpoint::host::procfs::{self, Stat};
use cedana_contract::pid::Pid;

use super::descriptors;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Locks,
    Semaphores,
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
    let maps = || fs::read_to_string(procfs::of(pid).join("maps")).unwrap_or_default();
    let has = [
        (Loss::Locks, locks_mapped(pid, locks, maps)),
        (Loss::Semaphores, has_semaphore(pid)),
    ];
    let lost = has.into_iter().filter(|(_, has)| *has);
    lost.map(|(loss, _)| loss).collect()
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
    use nix::sys::eventfd::{EfdFlags, EventFd};

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
    fn a_semaphore_is_named_while_it_is_open() {
        let own = Pid::own();
        let warned = || of(&[own], &HashMap::new());
        let before = warned();
        assert!(!before.iter().any(|text| text.contains("EFD_SEMAPHORE")));
        let semaphore = EventFd::from_flags(EfdFlags::EFD_SEMAPHORE).expect("a semaphore");
        let named = |text: &String| text.contains("EFD_SEMAPHORE");
        assert_eq!(warned().iter().filter(|text| named(text)).count(), 1);
        drop(semaphore);
    }
}
