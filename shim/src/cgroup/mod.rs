//! Reads a container's cgroup: its processes, its metrics, its OOM kills. The OCI
//! runtime creates and removes the cgroup; the shim writes to it only in
//! [`Cgroup::withdraw_freeze`].
//!
//! The kernel docs admin-guide/cgroup-v1 and cgroup-v2.rst describe the files. A
//! missing file means that the controller is not enabled; its numbers stay zero, as
//! in containerd's own shim. The cgroup is found once, from `/proc/PID/cgroup` of a
//! process in it, and remembered, because the cgroup outlives the process.

mod files;
mod oom;
mod v1;
mod v2;

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use containerd_shim::protos::protobuf::well_known_types::any::Any;

use crate::procfs;
use cedana_contract::{pid::Pid, pidfd};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

pub(crate) use oom::watch as watch_oom;

/// The mount point of the hierarchies in every distribution (systemd's
/// file-hierarchy(7)).
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The directories of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// Version 1: a directory in each controller's hierarchy.
    V1(BTreeMap<String, PathBuf>),
    /// Version 2: one directory.
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup of process `pid`.
    ///
    /// # Errors
    /// The process has exited, or its cgroup is not mounted here.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let membership = fs::read_to_string(procfs::of(pid).join("cgroup"))?;
        let unified = statfs(MOUNT_POINT)?.filesystem_type() == CGROUP2_SUPER_MAGIC;
        parse_membership(&membership, Path::new(MOUNT_POINT), unified).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} is in no cgroup under {MOUNT_POINT}"),
            )
        })
    }

    /// All processes in the cgroup and the cgroups below, as `runc ps` lists them.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        if let Some(dir) = self.dir() {
            collect_pids(dir, &mut pids);
        }
        pids
    }

    /// Kills a process that [`Self::pids`] has listed.
    ///
    /// The process is no child of the shim, so its PID may be another process's by
    /// now. The pidfd is opened first and the membership is read afterwards: if the
    /// PID still means a process of the cgroup, either the pidfd is that process's,
    /// or the pidfd's process has exited and the signal fails.
    ///
    /// # Errors
    /// ESRCH if the process has exited or left the cgroup.
    pub(crate) fn kill(&self, pid: Pid) -> nix::Result<()> {
        let process = pidfd::open(pid)?;
        let member = Self::of(pid).is_ok_and(|cgroup| cgroup.is_within(self));
        match member {
            true => pidfd::kill(process.as_fd()),
            false => Err(Errno::ESRCH),
        }
    }

    /// Whether this is the other cgroup or one below it, in the hierarchy whose
    /// processes [`Self::pids`] lists.
    fn is_within(&self, other: &Self) -> bool {
        matches!((self.dir(), other.dir()), (Some(dir), Some(other)) if dir.starts_with(other))
    }

    /// The directory whose `cgroup.procs` has all processes of the container.
    fn dir(&self) -> Option<&PathBuf> {
        match self {
            Cgroup::V2(dir) => Some(dir),
            // Each of these controllers has all processes of the container. The
            // kernel's configuration decides which of them exist.
            Cgroup::V1(dirs) => ["devices", "freezer", "pids", "memory", "cpu"]
                .iter()
                .find_map(|controller| dirs.get(*controller)),
        }
    }

    /// Withdraws the freeze that a runtime has left after a failed pause on version 2
    /// (kernel doc: admin-guide/cgroup-v2.rst, `cgroup.freeze`). On version 1
    /// runtimes do so themselves.
    pub(crate) fn withdraw_freeze(&self) {
        if let Cgroup::V2(dir) = self {
            // A removed cgroup freezes nothing.
            let _ = fs::write(dir.join("cgroup.freeze"), "0");
        }
    }

    /// Whether this is the root of a hierarchy, which has the host's processes.
    pub(crate) fn is_root(&self) -> bool {
        let root = Path::new(MOUNT_POINT);
        match self {
            Cgroup::V2(dir) => dir == root,
            Cgroup::V1(dirs) => dirs.values().any(|dir| dir.parent() == Some(root)),
        }
    }

    /// The metrics message for containerd: `io.containerd.cgroups.v1.Metrics`
    /// or `.v2.Metrics`.
    pub(crate) fn metrics(&self) -> Any {
        match self {
            Cgroup::V1(dirs) => packed(&v1::metrics(dirs)),
            Cgroup::V2(dir) => packed(&v2::metrics(dir)),
        }
    }
}

fn packed<M: containerd_shim::protos::protobuf::MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Serialising a proto3 message to memory can't fail.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

fn collect_pids(dir: &Path, pids: &mut Vec<Pid>) {
    // A cgroup that is removed during the walk has no processes.
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|line| line.parse::<Pid>().ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_pids(&entry.path(), pids);
        }
    }
}

/// Reads `/proc/PID/cgroup` (cgroups(7)): lines of `ID:controllers:path`.
fn parse_membership(text: &str, mount_point: &Path, unified: bool) -> Option<Cgroup> {
    let mut dirs = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let below = path.trim_start_matches('/');
        if unified {
            if controllers.is_empty() {
                return Some(Cgroup::V2(mount_point.join(below)));
            }
            continue;
        }
        for controller in controllers.split(',').filter(|c| !c.is_empty()) {
            let name = controller.trim_start_matches("name=");
            dirs.insert(name.to_owned(), mount_point.join(name).join(below));
        }
    }
    (!dirs.is_empty()).then_some(Cgroup::V1(dirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_has_one_directory() {
        let found = parse_membership("0::/system.slice/x\n", Path::new("/cg"), true);
        assert_eq!(found, Some(Cgroup::V2("/cg/system.slice/x".into())));
    }

    #[test]
    fn version_1_has_a_directory_per_controller() {
        let text = "5:cpu,cpuacct:/a\n4:name=systemd:/b\n0::/c\n";
        let Some(Cgroup::V1(dirs)) = parse_membership(text, Path::new("/cg"), false) else {
            panic!("not version 1");
        };
        assert_eq!(dirs["cpu"], Path::new("/cg/cpu/a"));
        assert_eq!(dirs["cpuacct"], Path::new("/cg/cpuacct/a"));
        assert_eq!(dirs["systemd"], Path::new("/cg/systemd/b"));
        assert_eq!(dirs.len(), 3);
    }

    #[test]
    fn a_process_outside_the_cgroup_is_not_killed() {
        let elsewhere = Cgroup::V2("/elsewhere".into());
        assert_eq!(elsewhere.kill(Pid::own()), Err(Errno::ESRCH));
        let cgroup = |path: &str| Cgroup::V2(path.into());
        assert!(cgroup("/c/a").is_within(&cgroup("/c/a")));
        assert!(cgroup("/c/a/b").is_within(&cgroup("/c/a")));
        assert!(!cgroup("/c/ab").is_within(&cgroup("/c/a")));
        assert!(!cgroup("/c").is_within(&cgroup("/c/a")));
    }

    #[test]
    fn processes_of_cgroups_below_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "1\n2\n").unwrap();
        fs::write(dir.path().join("a/b/cgroup.procs"), "3\n").unwrap();
        assert_eq!(
            Cgroup::V2(dir.path().into()).pids(),
            [1, 2, 3].map(|pid| Pid::try_from(pid).unwrap())
        );
    }

    proptest::proptest! {
        #[test]
        fn no_membership_panics(text: String, unified: bool) {
            let _ = parse_membership(&text, Path::new("/cg"), unified);
        }
    }
}
