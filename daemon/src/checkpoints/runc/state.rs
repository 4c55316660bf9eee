//! What the runtime's record says of a container, and /proc of its processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Checked, Failure, Kind};

/// The process ID of the first process, which runs.
pub(super) fn init(root: &Path, id: &str) -> Result<i32, Failure> {
    let (path, key, start) = names(root, id);
    let record = read(&path)?;
    let pid = positive(&record[key]).ok_or_else(|| {
        let why = format!("the runtime's record {} has no process", path.display());
        Failure::new(Kind::State, why)
    })?;
    // The PID may be another process's by now.
    match (started(pid), record[start].as_u64()) {
        (Some(now), Some(then)) if now != then => Err(ended(id)),
        (None, _) => Err(ended(id)),
        _ => Ok(pid),
    }
}

/// The process ID of the first process, which may have ended.
pub(super) fn recorded_pid(root: &Path, id: &str) -> Option<i32> {
    let (path, key, _) = names(root, id);
    positive(&read(&path).ok()?[key])
}

/// The record of a container, and its names for a process ID and its start: runc's, or
/// crun's.
fn names(root: &Path, id: &str) -> (PathBuf, &'static str, &'static str) {
    let dir = root.join(id);
    match dir.join("state.json") {
        path if path.exists() => (path, "init_process_pid", "init_process_start"),
        _ => (dir.join("status"), "pid", "process-start-time"),
    }
}

fn positive(pid: &Value) -> Option<i32> {
    let pid = i32::try_from(pid.as_i64()?).ok()?;
    (pid > 0).then_some(pid)
}

fn ended(id: &str) -> Failure {
    Failure::new(Kind::State, format!("container {id} does not run"))
}

fn read(path: &Path) -> Result<Value, Failure> {
    let failed = |why: String| {
        let text = format!(
            "the runtime's record {} cannot be read: {why}",
            path.display()
        );
        Failure::new(Kind::System, text)
    };
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
}

/// The bundle in a container's record; `None` if there is no record.
pub(super) fn bundle(root: &Path, id: &str) -> Option<PathBuf> {
    let dir = root.join(id);
    if let Ok(record) = read(&dir.join("status")) {
        return record["bundle"].as_str().map(PathBuf::from);
    }
    let record = read(&dir.join("state.json")).ok()?;
    let labels = record["config"]["labels"].as_array()?;
    let mut labels = labels.iter().filter_map(Value::as_str);
    labels.find_map(|label| Some(PathBuf::from(label.strip_prefix("bundle=")?)))
}

/// Whether a container's freezer is set. False if that is unknown.
pub(super) fn is_frozen(root: &Path, id: &str) -> bool {
    let Ok(record) = read(&root.join(id).join("state.json")) else {
        return false;
    };
    let paths = &record["cgroup_paths"];
    let path = |key: &str| paths[key].as_str().filter(|path| !path.is_empty());
    let said = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    match (path("freezer"), path("")) {
        (Some(v1), _) => said(Path::new(v1).join("freezer.state")).trim() != "THAWED",
        (None, Some(v2)) => said(Path::new(v2).join("cgroup.freeze")).trim() == "1",
        _ => false,
    }
}

/// The processes below a container's first one, and their memory.
pub(super) fn look(init: i32) -> Checked {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(parent) = field(pid, 1)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::from([init]);
    let mut next = vec![init];
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    Checked {
        obstacles: Vec::new(),
        warnings: Vec::new(),
        processes: u32::try_from(found.len()).unwrap_or(u32::MAX),
        memory: found.iter().filter_map(|pid| anonymous(*pid)).sum(),
    }
}

/// Bytes of a process's memory that a dump writes, about.
fn anonymous(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:").unwrap_or(0)) << 10)
}

/// When a process was started, in ticks since the machine's start.
fn started(pid: i32) -> Option<u64> {
    field(pid, 19)
}

/// A field of /proc/PID/stat after the name, from 0 (proc_pid_stat(5)).
fn field<T: std::str::FromStr>(pid: i32, number: usize) -> Option<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_that_is_anothers_is_no_container() {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = root.path().join("c");
        fs::create_dir(&dir).expect("mkdir");
        let own = i32::try_from(std::process::id()).expect("a PID");
        let start = started(own).expect("stat");
        for (start, fits) in [(start, true), (start + 1, false)] {
            let record = format!(r#"{{"init_process_pid":{own},"init_process_start":{start}}}"#);
            fs::write(dir.join("state.json"), record).expect("write");
            assert_eq!(init(root.path(), "c").is_ok(), fits);
        }
        let seen = look(own);
        assert!(seen.processes >= 1 && seen.memory > 0, "{seen:?}");
    }
}
