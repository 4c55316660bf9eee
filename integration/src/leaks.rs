//! Finds processes, mounts and files that a failed checkpoint or restore leaves behind.
//!
//! Tests of one program run in parallel, so a snapshot of the whole machine has other
//! tests' containers. Here only that counts which carries the test's own names: the
//! container's id, its bundle, its directory of images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{command, eventually};

/// Prefixes of the names of a checkpoint's or a restore's processes. A shim is not
/// among them: it runs as long as containerd has its container.
const PROGRAMS: [&str; 4] = ["cedana-", "criu", "runc", "crun"];

/// Directories that hold temporary files.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/run"];

/// Prefixes of directories that cedana-runc makes for one restore.
const PREFIXES: [&str; 2] = ["cedana-restore-", "cedana-unpacked-"];

/// A snapshot of what carried a test's names before the failure.
pub struct Leaks {
    names: Vec<String>,
    before: BTreeSet<String>,
}

impl Leaks {
    /// Takes the snapshot for `names`: ids and paths made by [`crate::unique`], which no
    /// other test has.
    #[track_caller]
    pub fn before(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let before = carriers(&names);
        Self { names, before }
    }

    /// Waits until nothing new carries the names, and nothing names a process that has
    /// exited: sockets of page sources, and firewall tables in any network namespace.
    /// A namespace itself exists only as long as a process, which would be found.
    #[track_caller]
    pub fn none(&self) {
        eventually("a failure leaves nothing behind", || {
            let now = carriers(&self.names);
            let mut left: Vec<_> = now.difference(&self.before).cloned().collect();
            left.extend(stale_sockets());
            left.extend(stale_tables());
            match left.is_empty() {
                true => Ok(()),
                false => Err(left.join("\n")),
            }
        });
    }
}

/// Processes, mounts and temporary files that carry one of `names`.
fn carriers(names: &[String]) -> BTreeSet<String> {
    let carries = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
    let mut found = BTreeSet::new();
    for process in entries("/proc") {
        let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let known = PROGRAMS.iter().any(|program| comm.starts_with(program));
        if known && traces(&process).iter().any(|text| carries(text)) {
            found.insert(format!("process {} {}", process.display(), comm.trim()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let mounts = mounts.unwrap_or_else(|error| panic!("mountinfo: {error}"));
    for mount in mounts.lines().filter(|mount| carries(mount)) {
        // Without the ids of the mounts, which a new mount may reuse.
        let place = mount.split(' ').skip(3).collect::<Vec<_>>().join(" ");
        found.insert(format!("mount {place}"));
    }
    for file in TEMPORARY.iter().flat_map(|place| entries(place)) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let inside = || entries(&file.display().to_string());
        let ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let of_the_story = || {
            inside().iter().any(|path| {
                let target = fs::read_link(path).unwrap_or_default();
                carries(&target.display().to_string())
                    || fs::read(path).is_ok_and(|text| carries(&String::from_utf8_lossy(&text)))
            })
        };
        if carries(&name) || (ours && of_the_story()) {
            found.insert(format!("file {}", file.display()));
        }
    }
    found
}

/// Sockets of page sources whose container has exited. A name is init's PID and its
/// start time.
fn stale_sockets() -> Vec<String> {
    let is_stale = |socket: &PathBuf| {
        let name = socket.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.split('-').next().unwrap_or_default();
        !Path::new("/proc").join(pid).exists()
    };
    let sockets = entries("/run/cedana/lazy").into_iter().filter(is_stale);
    sockets.map(|path| path.display().to_string()).collect()
}

/// Tables of a network lock whose process has exited, in all network namespaces. A name
/// is `cedana-` and the PID.
fn stale_tables() -> Vec<String> {
    let mut namespaces = BTreeMap::new();
    for process in entries("/proc") {
        let namespace = process.join("ns/net");
        if let Ok(identity) = fs::read_link(&namespace) {
            namespaces.insert(identity, namespace);
        }
    }
    let mut found = Vec::new();
    for namespace in namespaces.into_values() {
        let enter = format!("--net={}", namespace.display());
        // A process that exits meanwhile takes its namespace along.
        let tables = command("nsenter", &[&enter, "nft", "list", "tables"]).stdout;
        let names = tables.split_whitespace();
        let pids = names.filter_map(|name| Some((name, name.strip_prefix("cedana-")?)));
        let stale = pids.filter(|(_, pid)| !Path::new("/proc").join(pid).exists());
        found.extend(stale.map(|(name, _)| format!("table {name} in {}", namespace.display())));
    }
    found
}

/// A process's command line, working directory and descriptors. CRIU's command line
/// does not name the container, but the others do.
fn traces(process: &Path) -> Vec<String> {
    let text = |name: &str| {
        let bytes = fs::read(process.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let descriptors = entries(&process.join("fd").display().to_string());
    let links = descriptors.into_iter().chain([process.join("cwd")]);
    let targets = links.filter_map(|link| Some(fs::read_link(link).ok()?.display().to_string()));
    targets.chain([text("cmdline"), text("environ")]).collect()
}

/// The paths in a directory; none if it does not exist.
fn entries(place: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
