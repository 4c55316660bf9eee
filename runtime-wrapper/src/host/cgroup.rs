//! A container's cgroup: who is in it, and is it frozen.
//!
//! Works on cgroup v1's freezer hierarchy and on v2, told apart by the file that
//! freezes (kernel: cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cgroup directory that can freeze.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Cgroup {
    /// Nothing if the directory has no freezer.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        let version = if dir.join("freezer.state").exists() {
            Version::V1
        } else if dir.join("cgroup.freeze").exists() {
            Version::V2
        } else {
            return None;
        };
        Some(Self {
            dir: dir.to_owned(),
            version,
        })
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// All processes in it and below. A cgroup that vanishes meanwhile has none.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.listed("cgroup.procs")
    }

    /// How many threads are in it and below.
    pub(crate) fn threads(&self) -> usize {
        let file = match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        self.listed(file).len()
    }

    fn listed(&self, file: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        pids
    }

    pub(crate) fn is_frozen(&self) -> bool {
        let text = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.version {
            Version::V1 => matches!(text("freezer.state").trim(), "FROZEN" | "FREEZING"),
            Version::V2 => text("cgroup.freeze").trim() == "1",
        }
    }

    /// Whether every process stands still by now, which the kernel tells some time
    /// after it was asked for.
    pub(crate) fn has_frozen(&self) -> bool {
        let text = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.version {
            Version::V1 => text("freezer.state").trim() == "FROZEN",
            Version::V2 => text("cgroup.events").lines().any(|line| line == "frozen 1"),
        }
    }

    /// Asks the kernel to freeze every process. On v1 a second request reaches
    /// processes that were being made during the first.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(self.dir.join("freezer.state"), "FROZEN"),
            Version::V2 => fs::write(self.dir.join("cgroup.freeze"), "1"),
        }
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(self.dir.join("freezer.state"), "THAWED"),
            Version::V2 => fs::write(self.dir.join("cgroup.freeze"), "0"),
        }
    }
}

/// How many bytes a process's cgroup has left below its memory limit, file cache
/// that the kernel can drop counted as left; nothing if it has no limit. Limits of
/// the cgroups above are not looked at.
pub(crate) fn memory_headroom(pid: i32) -> Option<u64> {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let below = |root: PathBuf, path: &str| root.join(path.trim_start_matches('/'));
    membership.lines().find_map(|line| {
        let (_, controllers_and_path) = line.split_once(':')?;
        let (controllers, path) = controllers_and_path.split_once(':')?;
        match controllers {
            "" => headroom(&below(root.to_owned(), path), V2),
            _ if controllers.split(',').any(|name| name == "memory") => {
                headroom(&below(root.join("memory"), path), V1)
            }
            _ => None,
        }
    })
}

/// The files of a memory controller: the limit, what is used, and the line of
/// `memory.stat` that counts what can be dropped.
type MemoryFiles = [&'static str; 3];
const V1: MemoryFiles = [
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file ",
];
const V2: MemoryFiles = ["memory.max", "memory.current", "inactive_file "];

fn headroom(dir: &Path, [limit, used, droppable]: MemoryFiles) -> Option<u64> {
    let text = |file: &str| fs::read_to_string(dir.join(file)).ok();
    // "max" on v2; on v1 a number that no machine reaches.
    let limit: u64 = text(limit)?.trim().parse().ok()?;
    let used: u64 = text(used)?.trim().parse().ok()?;
    let stat = text("memory.stat").unwrap_or_default();
    let droppable = stat.lines().find_map(|line| line.strip_prefix(droppable));
    let droppable: u64 = droppable.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_limit_leaves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).expect("write");
        assert_eq!(headroom(dir.path(), V1), None);
        write("memory.limit_in_bytes", "1000\n");
        write("memory.usage_in_bytes", "700\n");
        write("memory.stat", "inactive_file 5\ntotal_inactive_file 200\n");
        assert_eq!(headroom(dir.path(), V1), Some(500));
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(headroom(dir.path(), V2), None);
        write("memory.max", "600\n");
        assert_eq!(headroom(dir.path(), V2), Some(0));
    }

    #[test]
    fn both_versions() {
        for (file, frozen, thawed, version) in [
            ("freezer.state", "FROZEN\n", "THAWED", Version::V1),
            ("cgroup.freeze", "1\n", "0", Version::V2),
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            assert!(Cgroup::open(dir.path()).is_none());
            fs::write(dir.path().join(file), frozen).expect("write");
            fs::write(dir.path().join("cgroup.procs"), "1\n2\n").expect("write");
            fs::create_dir(dir.path().join("below")).expect("mkdir");
            fs::write(dir.path().join("below/cgroup.procs"), "3\n").expect("write");
            let cgroup = Cgroup::open(dir.path()).expect("freezer");
            assert_eq!(cgroup.version(), version);
            assert!(cgroup.is_frozen());
            cgroup.thaw().expect("thaw");
            assert!(!cgroup.is_frozen());
            assert_eq!(
                fs::read_to_string(dir.path().join(file)).expect("read"),
                thawed
            );
            assert_eq!(cgroup.processes(), [1, 2, 3]);
            let threads = match version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.threads",
            };
            fs::write(dir.path().join(threads), "1\n2\n4\n").expect("write");
            assert_eq!(cgroup.threads(), 3);
            cgroup.freeze().expect("freeze");
            assert!(cgroup.is_frozen());
            if version == Version::V2 {
                assert!(!cgroup.has_frozen());
                fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 1\n")
                    .expect("write");
            }
            assert!(cgroup.has_frozen());
        }
    }
}
