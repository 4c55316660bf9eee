//! The namespaces of a tree: those of this process, or those that a restore made
//! ([`crate::init`]).

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cedana_checkpoint::host::procfs::{self, Stat, namespace_inode};
use cedana_contract::pid::Pid;

use crate::enter::Namespaces;
use crate::init;
use crate::obstacle::Obstacle;

/// The kinds of namespaces, with the names that people use. CRIU itself restores processes
/// in a time namespace of their own, so that their clocks go on.
const KINDS: [(&str, &str); 6] = [
    ("pid", "PID"),
    ("mnt", "mount"),
    ("user", "user"),
    ("net", "network"),
    ("ipc", "IPC"),
    ("uts", "UTS"),
];

/// A tree in namespaces that a restore made.
#[derive(Debug)]
pub(crate) struct Within {
    /// The PID of the root in its namespace.
    pub(crate) root: Pid,
    pub(crate) namespaces: Namespaces,
    /// The inodes of the PID and the mount namespace.
    inodes: [u64; 2],
}

impl Within {
    /// The namespaces of a process, if a restore of ours made them.
    pub(super) fn of(root: Pid) -> Option<Self> {
        let inside = level_below(root)?;
        let init = init_of(root)?;
        if !is_ours(init) {
            return None;
        }
        let open = |kind: &str| File::open(procfs::of(init).join("ns").join(kind)).ok();
        let (pid, mount) = (open("pid")?, open("mnt")?);
        let inodes = [pid.metadata().ok()?.ino(), mount.metadata().ok()?.ino()];
        Some(Self {
            root: inside,
            namespaces: Namespaces {
                pid: OwnedFd::from(pid),
                mount: OwnedFd::from(mount),
            },
            inodes,
        })
    }
}

/// The namespace that a process does not share with the tree: CRIU would make it anew, and
/// a container's are its engine's.
pub(super) fn foreign(pid: Pid, within: Option<&Within>) -> Option<Obstacle> {
    KINDS.into_iter().find_map(|(file, name)| {
        let theirs = namespace_inode(&pid.to_string(), file).ok()?;
        let expected = match (within, file) {
            (Some(within), "pid") => within.inodes[0],
            (Some(within), "mnt") => within.inodes[1],
            _ => namespace_inode("self", file).ok()?,
        };
        (theirs != expected).then_some(Obstacle::Namespace { pid, kind: name })
    })
}

/// The PIDs of a process from this process's namespace down to its own.
fn levels(pid: &str) -> Vec<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let words = line.unwrap_or_default().split_ascii_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// The PID of a process in its namespace, if that is the next one below this process's.
fn level_below(pid: Pid) -> Option<Pid> {
    match levels(&pid.to_string())[..] {
        [_, inside] => Some(inside),
        _ => None,
    }
}

/// The ancestor that is the first process of a process's namespace.
fn init_of(pid: Pid) -> Option<Pid> {
    let mut pid = pid;
    // A chain has an end; the limit is for a process ID that is used again meanwhile.
    for _ in 0..10_000 {
        match level_below(pid)? {
            inside if inside.as_raw() == 1 => return Some(pid),
            _ => pid = Stat::read(pid)?.parent?,
        }
    }
    None
}

/// Whether a namespace's first process is [`crate::init`]: a child of the keeper, which is
/// outside of the namespace. Both are root's, and both run the same program, this one or
/// the one of this path before an update. The first process of a container has another
/// program than its parent, and a user can't make a PID namespace without a user namespace.
fn is_ours(init: Pid) -> bool {
    let Some(keeper) = Stat::read(init).and_then(|stat| stat.parent) else {
        return false;
    };
    let is_outside = levels(&keeper.to_string()).len() == 1;
    let name = init::NAME.to_bytes();
    let is_named = |pid| Stat::read(pid).is_some_and(|stat| stat.name.as_bytes() == name);
    let is_roots = |pid| super::status_uid(pid) == Some(0);
    let program = |pid: Pid| Program::of(&procfs::of(pid));
    is_outside
        && [init, keeper]
            .into_iter()
            .all(|pid| is_named(pid) && is_roots(pid))
        && Program::of(Path::new("/proc/self")).is_some_and(|own| {
            let keepers = program(keeper);
            let same = program(init) == keepers;
            same && keepers.is_some_and(|keepers| keepers == own || keepers.path == own.path)
        })
}

/// A process's program.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    inode: (u64, u64),
    path: PathBuf,
}

impl Program {
    fn of(process: &Path) -> Option<Self> {
        let link = process.join("exe");
        let status = fs::metadata(&link).ok()?;
        let path = fs::read_link(&link).ok()?;
        let path = path.to_str()?;
        // An update has replaced it.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some(Self {
            inode: (status.dev(), status.ino()),
            path: PathBuf::from(path),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_this_namespace_are_not_within_another() {
        let own = Pid::own();
        assert!(Within::of(own).is_none());
        assert_eq!(level_below(own), None);
        assert_eq!(foreign(own, None), None);
        // The parent of this one is no keeper.
        assert!(!is_ours(own));
    }
}
