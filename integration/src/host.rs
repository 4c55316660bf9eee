//! Lists what a container can leak on a machine: processes, mounts, files, cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{NAMESPACE, ctr_ok, eventually};

/// The directories in which the programs under test create files.
const PLACES: [&str; 6] = [
    "/tmp",
    "/var/tmp",
    "/run",
    "/var/log/cedana",
    "/var/lib/containerd/io.containerd.runtime.v2.task",
    "/var/lib/containerd/tmpmounts",
];

/// A snapshot of the machine, which must be the same before and after a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(BTreeMap<&'static str, BTreeSet<String>>);

impl Leftovers {
    /// Takes the snapshot.
    #[track_caller]
    pub fn now() -> Self {
        let listed = |arguments: &[&str]| ctr_ok(arguments).lines().map(first_word).collect();
        Self(BTreeMap::from([
            ("mounts", mounts()),
            ("network namespaces", network_namespaces()),
            ("processes", processes()),
            ("cgroups", cgroups()),
            (
                "files",
                PLACES
                    .iter()
                    .flat_map(|p| files(Path::new(p), true))
                    .collect(),
            ),
            ("content", listed(&["content", "ls", "-q"])),
            ("leases", listed(&["leases", "ls", "-q"])),
            ("snapshots", listed(&["snapshots", "ls"])),
            ("images", listed(&["images", "ls", "-q"])),
            ("containers", listed(&["containers", "ls", "-q"])),
        ]))
    }

    /// Waits until the machine is as in the snapshot. Some of it is removed just after
    /// the shim's answer.
    #[track_caller]
    pub fn unchanged(&self) {
        eventually("nothing is left over", || {
            let difference = self.difference(&Self::now());
            if difference.is_empty() {
                Ok(())
            } else {
                Err(difference.join("\n"))
            }
        });
    }

    fn difference(&self, later: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, before) in &self.0 {
            let now = &later.0[kind];
            found.extend(
                now.difference(before)
                    .map(|x| format!("{kind}: left over: {x}")),
            );
            // A process of the snapshot may have been about to exit, such as the shim
            // that containerd starts to ask for its features.
            found.extend(
                before
                    .difference(now)
                    .filter(|_| *kind != "processes")
                    .map(|x| format!("{kind}: missing: {x}")),
            );
        }
        found
    }
}

/// The private memory of a process in bytes.
#[track_caller]
pub fn private_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    text.lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(kib)
        .sum::<u64>()
        * 1024
}

/// The targets of a process's descriptors.
#[track_caller]
pub fn descriptors_of(pid: u32) -> Vec<String> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut open: Vec<_> = entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        // Without the number of a socket or pipe, which differs each time.
        .map(|target| {
            target
                .display()
                .to_string()
                .split(":[")
                .next()
                .unwrap_or("")
                .to_owned()
        })
        .collect();
    open.sort();
    open
}

/// The directory of a process's cgroup: in the unified hierarchy if that has
/// controllers, otherwise in that of the v1 `controller`.
#[track_caller]
pub fn cgroup_of(pid: u32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .unwrap_or_else(|e| panic!("cgroup of {pid}: {e}"));
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next()?;
            let path = fields.next()?;
            names
                .split(',')
                .any(|n| n == wanted)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    match (of(controller), of("")) {
        (Some(path), _) => root.join(controller).join(path),
        (None, Some(path)) => root.join(path),
        (None, None) => panic!("no cgroup of {pid} in {text:?}"),
    }
}

fn first_word(line: &str) -> String {
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let described = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        format!(
            "{} ({})",
            fields.get(4).unwrap_or(&""),
            fields.last().unwrap_or(&"")
        )
    };
    // Two mounts on one path count twice.
    let mut seen = BTreeMap::new();
    for line in text.lines().map(described) {
        *seen.entry(line).or_insert(0) += 1;
    }
    seen.into_iter()
        .map(|(line, times)| format!("{line} x{times}"))
        .collect()
}

fn pids() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    entries
        .filter(|e| {
            e.file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .map(|e| e.path())
}

fn processes() -> BTreeSet<String> {
    let own = std::process::id().to_string();
    let described = |path: PathBuf| {
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        let pid = path.file_name()?.to_string_lossy().into_owned();
        (pid != own).then(|| format!("{pid} {}", comm.trim()))
    };
    pids().filter_map(described).collect()
}

fn network_namespaces() -> BTreeSet<String> {
    let of = |path: PathBuf| fs::read_link(path.join("ns/net")).ok();
    pids()
        .filter_map(of)
        .map(|ns| ns.display().to_string())
        .collect()
}

/// The cgroups, without that of the containerd namespace: runc creates it with a
/// container and, from 1.3 on, removes it with the last.
fn cgroups() -> BTreeSet<String> {
    let mut found = files(Path::new("/sys/fs/cgroup"), false);
    found.retain(|path| !path.ends_with(&format!("/{NAMESPACE}")));
    found
}

/// Everything below `place`, or only its directories.
fn files(place: &Path, leaves: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![place.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
            if is_directory {
                ahead.push(entry.path());
            }
            if is_directory || leaves {
                found.insert(entry.path().display().to_string());
            }
        }
    }
    found
}
