//! Checkpoints that could never be restored, found before the container ends.
//!
//! CRIU's dump accepts what CRIU's restore later refuses. A checkpoint that ends
//! its container would then lose it, so it is looked at twice:
//!
//! ```text
//! before CRIU starts  ─► Docker's --rm, mounts, namespaces, sessions, tun devices,
//!                        executed memfds, the pids limit      (/proc, config.json)
//! CRIU waits at its   ─► open files, AMX tiles                (the images)
//! post-dump script
//! ```
//!
//! With `checkpoint.doubtful = "refuse"` a checkpoint that would end the container
//! is refused and the container goes on running. If it goes on anyway, nothing is
//! lost, and a warning says that the checkpoint is worth nothing.
//!
//! A check refuses only what was seen to fail with stock runc and CRIU, too, or, for
//! AMX, what CRIU's images have no place for; what
//! can't be told for certain passes. Each has its own file, and works on text of
//! /proc, so that unit tests can feed it.

mod devices;
mod mounts;
mod namespaces;
mod pids;
mod programs;
mod sessions;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use cedana_checkpoint::images::{Unrestorable, deleted_directories, unrestorable};
use cedana_config::Doubtful;
use serde_json::Value;

use super::doubt::Doubt;
use super::prepared::Prepared;
use crate::engine::docker;
use crate::host::procfs::{Stat, descends, stats_of};
use crate::oci::state::{Container, Kind};

/// What the checks look at.
struct Seen<'a> {
    container: &'a Container,
    /// Its OCI configuration, as far as there is one.
    spec: &'a Value,
    /// Init and its descendants: the processes that CRIU dumps.
    processes: HashMap<i32, Stat>,
}

/// Looks at a container before CRIU does. `processes` are those in its cgroup.
pub(super) fn before_dump(prepared: &Prepared<'_>, processes: &[i32]) -> Result<(), Doubt> {
    let Prepared {
        request, container, ..
    } = prepared;
    // It can't be restored from, and its container runs on.
    if request.has("pre-dump") {
        return Ok(());
    }
    let seen = Seen::of(prepared, processes);
    let mut doubts = Vec::new();
    if docker::removes_at_end(request, seen.spec) {
        doubts.push(Doubt::new(
            "Docker removes the container, and its checkpoint with it, when it ends (--rm)",
            "run it without --rm",
        ));
    }
    doubts.extend(mounts::look(&seen));
    doubts.extend(namespaces::look(&seen));
    doubts.extend(sessions::look(container.init, &seen.processes));
    doubts.extend(programs::look(&seen));
    doubts.extend(devices::look(&seen));
    if container.kind == Kind::Runc {
        doubts.extend(pids::look(&seen));
    }
    weigh(prepared, doubts)
}

/// Looks at what CRIU has written to `images`. Images that can't be read are none
/// of this module's business: storing them fails, or CRIU would.
pub(super) fn after_dump(prepared: &Prepared<'_>, images: &Path) -> Result<(), Doubt> {
    weigh(prepared, in_images(prepared, images))
}

/// The same for a checkpoint that is finished, when there is nothing to refuse.
pub(super) fn warn_of(prepared: &Prepared<'_>, images: &Path) {
    for doubt in in_images(prepared, images) {
        warn(prepared, &doubt);
    }
}

fn in_images(prepared: &Prepared<'_>, images: &Path) -> Vec<Doubt> {
    let Prepared {
        request, container, ..
    } = prepared;
    let found = unrestorable(images).unwrap_or_default();
    let mut doubts: Vec<Doubt> = found.into_iter().map(Doubt::from).collect();
    // Docker keeps the container's files; other engines may restore it on those of
    // its image, where the name is free.
    if docker::asks(request) {
        let root = PathBuf::from(format!("/proc/{}/root", container.init));
        let directories = deleted_directories(images).unwrap_or_default();
        let replaced = directories.iter().filter(|path| is_replaced(&root, path));
        doubts.extend(replaced.map(|path| {
            Doubt::new(
                format!(
                    "the deleted directory {path} is open, and CRIU can't make it again because another one with files in it has its name"
                ),
                "restart the process that works in it",
            )
        }));
    }
    doubts
}

/// Whether a path at which CRIU makes a directory and removes it again is taken.
/// CRIU accepts an empty directory.
fn is_replaced(root: &Path, path: &str) -> bool {
    let path = root.join(path.trim_start_matches('/'));
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => {
            fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some())
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Refuses for the first doubt, or warns of all.
fn weigh(prepared: &Prepared<'_>, doubts: Vec<Doubt>) -> Result<(), Doubt> {
    let ends = !prepared.request.has("leave-running");
    for doubt in doubts {
        if ends && prepared.config.checkpoint.doubtful == Doubtful::Refuse {
            return Err(doubt);
        }
        warn(prepared, &doubt);
    }
    Ok(())
}

fn warn(prepared: &Prepared<'_>, doubt: &Doubt) {
    prepared.reporter.warning(&format!(
        "the checkpoint of container {} can't be restored: {doubt}",
        prepared.request.id
    ));
}

impl<'a> Seen<'a> {
    fn of(prepared: &'a Prepared<'a>, processes: &[i32]) -> Self {
        let container = &prepared.container;
        let all = stats_of(processes);
        let processes = all
            .iter()
            .filter(|&(&pid, _)| descends(pid, container.init, &all))
            .map(|(&pid, stat)| (pid, stat.clone()))
            .collect();
        Self {
            container,
            spec: prepared.spec.as_ref().unwrap_or(&Value::Null),
            processes,
        }
    }

    /// A process for the person at the terminal.
    fn name(&self, pid: i32) -> String {
        let name = self.processes.get(&pid).map(|stat| stat.name.as_str());
        format!("process {pid} ({})", name.unwrap_or("?"))
    }

    /// The processes in order, so that the same one is named every time.
    fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.processes.keys().copied().collect();
        pids.sort_unstable();
        pids
    }
}

impl From<Unrestorable> for Doubt {
    fn from(file: Unrestorable) -> Self {
        match file {
            Unrestorable::Within { directory, file } => Self::new(
                format!(
                    "the deleted {file} is open, and so is the deleted directory {directory} around it, which CRIU can't remove again after it has made both"
                ),
                "have the application close one of them",
            ),
            Unrestorable::Tiles(pid) => Self::new(
                format!(
                    "process {pid} of the container has AMX tiles in use, which CRIU doesn't keep: it would end with SIGILL"
                ),
                "take the checkpoint when it computes nothing, or turn AMX off in the application",
            ),
            Unrestorable::Thread(path) => Self::new(
                format!("{path} is open, and CRIU opens files before the thread exists"),
                "have the application close it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_by_what_can_not_be_removed_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path();
        assert!(!is_replaced(root, "/app"));
        fs::create_dir(root.join("app")).expect("mkdir");
        assert!(!is_replaced(root, "/app"));
        fs::write(root.join("app/file"), "").expect("write");
        assert!(is_replaced(root, "/app"));
        assert!(is_replaced(root, "/app/file"));
    }
}
