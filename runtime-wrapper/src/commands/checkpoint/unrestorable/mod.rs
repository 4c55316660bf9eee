//! Finds, before the container ends, that its checkpoint could never be restored.
//!
//! CRIU's dump accepts containers that CRIU's restore later refuses. A checkpoint that
//! ends such a container would lose it, so there are two rounds of checks:
//!
//! ```text
//! before CRIU starts  ─► Docker's --rm, mounts, namespaces, sessions, tun devices,
//!                        executed memfds, the pids limit      (/proc, config.json)
//! CRIU waits in its   ─► open files, AMX tiles                (the images)
//! post-dump script
//! ```
//!
//! With `checkpoint.doubtful = "refuse"` a checkpoint that would end the container is
//! refused, and the container continues. If the container continues anyway, a warning
//! says that the checkpoint can't be restored.
//!
//! The checks refuse only containers whose restore was seen to fail with stock runc and
//! CRIU, too, or, for AMX, state that CRIU's images can't hold. Uncertain cases are
//! accepted. Each check has its own file and parses texts of /proc, which unit tests
//! provide:
//!
//! ```text
//! mounts      overlay file systems that were mounted inside the container
//! namespaces  descendants of init in the host's namespaces
//! sessions    processes in a session that CRIU can't restore them into
//! programs    processes that were started from a memfd
//! devices     open tun and tap devices
//! pids        a pids limit that is too low for CRIU's restore
//! ```

mod devices;
mod mounts;
mod namespaces;
mod pids;
mod programs;
mod sessions;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;

use cedana_checkpoint::images::{Unrestorable, deleted_directories, unrestorable};
use cedana_config::Doubtful;
use cedana_contract::variables;
use serde_json::Value;

use super::doubt::Doubt;
use super::prepared::Prepared;
use crate::engine::docker;
use crate::host::procfs::{self, Stat, descends};
use crate::oci::state::{Container, Kind};
use cedana_contract::pid::Pid;

/// The input of the checks.
struct Inspected<'a> {
    container: &'a Container,
    /// Its OCI configuration, null if it can't be read.
    spec: &'a Value,
    /// Init and its descendants: the processes that CRIU dumps.
    processes: HashMap<Pid, Stat>,
}

/// Checks a container before CRIU starts. `stats` are of the processes in its cgroup.
pub(super) fn before_dump(
    prepared: &Prepared<'_>,
    stats: &HashMap<Pid, Stat>,
) -> Result<(), Doubt> {
    // A pre-dump can't be restored from, and its container continues.
    if prepared.request.has("pre-dump") {
        return Ok(());
    }
    refuse_or_warn(prepared, doubts(prepared, stats))
}

/// What a checkpoint could never be restored for, as far as a running container shows it.
pub(super) fn doubts(prepared: &Prepared<'_>, stats: &HashMap<Pid, Stat>) -> Vec<Doubt> {
    let Prepared {
        request, container, ..
    } = prepared;
    let inspected = Inspected::of(prepared, stats);
    let mut doubts = Vec::new();
    // An archive is not in Docker's directory of the container.
    if request.archive_name().is_none() && docker::removes_at_end(request, inspected.spec) {
        doubts.push(Doubt::new(
            "Docker removes the container, and its checkpoint with it, when it ends (--rm)",
            "run it without --rm",
        ));
    }
    doubts.extend(mounts::check(&inspected));
    doubts.extend(namespaces::check(&inspected));
    doubts.extend(sessions::check(container.init, &inspected.processes));
    doubts.extend(programs::check(&inspected));
    doubts.extend(devices::check(&inspected));
    if container.kind == Kind::Runc {
        doubts.extend(pids::check(&inspected));
    }
    doubts
}

/// Checks CRIU's images. Images that can't be read are accepted here, since storing
/// them fails later.
pub(super) fn after_dump(prepared: &Prepared<'_>, images: &Path) -> Result<(), Doubt> {
    refuse_or_warn(prepared, in_images(prepared, images))
}

/// Checks the images of a checkpoint that has left the container running. It is refused
/// only if the client stops the container later.
pub(super) fn after_leaving_running(prepared: &Prepared<'_>, images: &Path) -> Result<(), Doubt> {
    let doubts = in_images(prepared, images);
    if is_stopped_later() {
        return refuse_or_warn(prepared, doubts);
    }
    for doubt in doubts {
        warn(prepared, &doubt);
    }
    Ok(())
}

fn is_stopped_later() -> bool {
    env::var_os(variables::STOPPED_LATER).is_some()
}

fn in_images(prepared: &Prepared<'_>, images: &Path) -> Vec<Doubt> {
    let Prepared {
        request, container, ..
    } = prepared;
    let found = unrestorable(images).unwrap_or_default();
    let mut doubts: Vec<Doubt> = found.into_iter().map(Doubt::from).collect();
    // Docker keeps the container's files. Other engines may restore the container on
    // its image's files, where the path is free.
    if docker::is_caller(request) {
        let root = procfs::root(container.init);
        let directories = deleted_directories(images).unwrap_or_default();
        let replaced = directories.iter().filter(|path| is_replaced(&root, path));
        doubts.extend(replaced.map(|path| {
            Doubt::new(
                format!(
                    "the deleted directory {path} is open, and CRIU can't make it again because a directory with files in it has its path"
                ),
                "restart the process that works in it",
            )
        }));
    }
    doubts
}

/// Whether a path at which CRIU makes a directory and removes it again is in use. CRIU
/// accepts an empty directory.
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

/// Refuses the checkpoint for the first doubt, or warns of all.
fn refuse_or_warn(prepared: &Prepared<'_>, doubts: Vec<Doubt>) -> Result<(), Doubt> {
    let ends = !prepared.request.has("leave-running") || is_stopped_later();
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

impl<'a> Inspected<'a> {
    fn of(prepared: &'a Prepared<'a>, stats: &HashMap<Pid, Stat>) -> Self {
        let container = &prepared.container;
        let processes = stats
            .iter()
            .filter(|&(&pid, _)| descends(pid, container.init, stats))
            .map(|(&pid, stat)| (pid, stat.clone()))
            .collect();
        Self {
            container,
            spec: prepared.spec.as_ref().unwrap_or(&Value::Null),
            processes,
        }
    }

    /// A process's PID and name for an error message.
    fn name(&self, pid: Pid) -> String {
        let name = self.processes.get(&pid).map(|stat| stat.name.as_str());
        format!("process {pid} ({})", name.unwrap_or("?"))
    }

    /// The PIDs in order, so that every run names the same process.
    fn pids(&self) -> Vec<Pid> {
        let mut pids: Vec<Pid> = self.processes.keys().copied().collect();
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
                "take the checkpoint when it does not compute, or turn AMX off in the application",
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
    fn a_directory_with_files_and_a_file_use_the_path() {
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
