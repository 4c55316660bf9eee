//! A container's cgroups: its processes, its freezer, and its limits.
//!
//! Works on cgroup v1 and v2. The file that freezes tells them apart (kernel:
//! cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::procfs;
use cedana_contract::pid::Pid;

/// A cgroup directory that can freeze.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    version: Version,
}

/// The version of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Cgroup {
    /// `None` if the directory has no freezer.
    pub fn open(dir: &Path) -> Option<Self> {
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

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All processes in it and below; none if the cgroup is removed meanwhile.
    pub fn processes(&self) -> Vec<Pid> {
        self.listed("cgroup.procs")
    }

    /// The number of threads in it and below.
    pub fn threads(&self) -> usize {
        let file = match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        self.listed(file).len()
    }

    fn listed(&self, file: &str) -> Vec<Pid> {
        let mut pids = Vec::new();
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<Pid>().ok()));
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        pids
    }

    /// Whether freezing was requested.
    pub fn is_frozen(&self) -> bool {
        let text = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.version {
            Version::V1 => matches!(text("freezer.state").trim(), "FROZEN" | "FREEZING"),
            Version::V2 => text("cgroup.freeze").trim() == "1",
        }
    }

    /// Whether every process is frozen, some time after the request to freeze.
    pub fn has_frozen(&self) -> bool {
        let text = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.version {
            Version::V1 => text("freezer.state").trim() == "FROZEN",
            Version::V2 => text("cgroup.events").lines().any(|line| line == "frozen 1"),
        }
    }

    /// Asks the kernel to freeze every process. On v1 a second request reaches
    /// processes that were forked during the first.
    pub fn freeze(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(self.dir.join("freezer.state"), "FROZEN"),
            Version::V2 => fs::write(self.dir.join("cgroup.freeze"), "1"),
        }
    }

    /// Lets every process run.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(self.dir.join("freezer.state"), "THAWED"),
            Version::V2 => fs::write(self.dir.join("cgroup.freeze"), "0"),
        }
    }
}

/// The mountpoint of v2's hierarchy, and the parent of v1's.
const ROOT: &str = "/sys/fs/cgroup";

/// The directory with a freezer of a cgroup, whose path is relative to its
/// hierarchy: v2's or v1's freezer hierarchy.
pub fn freezer_directory(path: &str) -> Option<PathBuf> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return None;
    }
    [PathBuf::from(ROOT), Path::new(ROOT).join("freezer")]
        .into_iter()
        .map(|root| root.join(path))
        .find(|dir| Cgroup::open(dir).is_some())
}

/// The bytes that a process's cgroup has left below its memory limit, including file
/// cache that the kernel can drop; `None` without a limit. Limits of the cgroups above
/// are ignored.
pub fn memory_headroom(pid: Pid) -> Option<u64> {
    let (version, dir) = directory_of(pid, "memory")?;
    match version {
        Version::V1 => headroom(&dir, V1),
        Version::V2 => headroom(&dir, V2),
    }
}

/// The limit of processes and threads of a process's cgroup; `None` without a limit.
pub fn pids_limit(pid: Pid) -> Option<u64> {
    let (_, dir) = directory_of(pid, "pids")?;
    let limit = fs::read_to_string(dir.join("pids.max")).ok()?;
    limit.trim().parse().ok()
}

/// The CPUs that a process's cgroup allows, as the kernel lists them; `None` if it limits
/// none.
pub fn cpus(pid: Pid) -> Option<String> {
    let (version, dir) = directory_of(pid, "cpuset")?;
    let file = match version {
        Version::V1 => "cpuset.effective_cpus",
        Version::V2 => "cpuset.cpus.effective",
    };
    // On v2 a cgroup without the controller is bound by the nearest above that has it.
    let above = dir.ancestors().take_while(|dir| dir.starts_with(ROOT));
    let list = above.map(|dir| fs::read_to_string(dir.join(file)));
    list.filter_map(Result::ok).next()
}

fn directory_of(pid: Pid, controller: &str) -> Option<(Version, PathBuf)> {
    directory(
        &fs::read_to_string(procfs::of(pid).join("cgroup")).ok()?,
        controller,
    )
}

/// The directory of a controller, of either version, by /proc/PID/cgroup (cgroups(7)).
fn directory(membership: &str, controller: &str) -> Option<(Version, PathBuf)> {
    let path_of = |wanted: &str| {
        membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            controllers
                .split(',')
                .any(|name| name == wanted)
                .then(|| path.trim_start_matches('/'))
        })
    };
    let root = Path::new(ROOT);
    match path_of(controller) {
        Some(path) => Some((Version::V1, root.join(controller).join(path))),
        None => Some((Version::V2, root.join(path_of("")?))),
    }
}

/// The files of a memory controller: the limit, the usage, and the line of
/// `memory.stat` that counts droppable bytes.
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
    use crate::host::procfs::pid;

    #[test]
    fn headroom_below_a_limit() {
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
    fn controllers_of_both_versions() {
        assert_eq!(
            directory("4:pids:/docker/a\n1:cpu,memory:/x\n0::/y\n", "pids"),
            Some((Version::V1, "/sys/fs/cgroup/pids/docker/a".into()))
        );
        assert_eq!(
            directory("0::/a:b\n", "pids"),
            Some((Version::V2, "/sys/fs/cgroup/a:b".into()))
        );
        assert_eq!(directory("", "pids"), None);
    }

    #[test]
    fn freezers_of_both_versions() {
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
            assert_eq!(cgroup.processes(), [1, 2, 3].map(pid));
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
