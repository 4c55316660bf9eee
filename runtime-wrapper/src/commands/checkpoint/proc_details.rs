//! Completes the diagnosis of a failed dump from /proc.
//!
//! CRIU's log names a watched file by its inode, a message queue by a path that could
//! be any file's, and a missing descriptor by the operation that needed it. The
//! container continues after a failed dump, so /proc has the details.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::cause::{Descriptor, Watched};
use cedana_checkpoint::criu::{Cause, Diagnosis};
use nix::libc;
use nix::sys::statfs::{FsType, statfs};

use crate::host::mountinfo;
use crate::host::procfs::{self, Init, Stat, descends, free_descriptors, stats_of};
use cedana_contract::pid::Pid;

/// The file system of POSIX message queues (ipc/mqueue.c of the kernel,
/// `MQUEUE_MAGIC`).
const MQUEUE: FsType = FsType(0x1980_0202);

/// The limits of the search for a watched file. An operating system's image has some
/// ten thousand names; this number takes about a second without reading the disk.
const NAMES: usize = 400_000;
const TIME: Duration = Duration::from_secs(1);

/// The limits that are left of a search.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    names: usize,
    end: Instant,
}

/// The number of free descriptors with which CRIU 4.2 dumps a process.
const ENOUGH: usize = 4;

/// Time for processes that are being killed to become zombies after CRIU's end.
const DYING: Duration = Duration::from_millis(500);

/// Completes a diagnosis for a container with this init and these processes.
pub(super) fn complete(found: &mut Diagnosis, init: Init, processes: &[Pid]) {
    let process = found.process.and_then(|pid| Pid::try_from(pid).ok());
    let may_mean_ended = found.cause.as_ref().is_none_or(Cause::may_mean_ended);
    if may_mean_ended && one_has_ended(found, init, processes) {
        found.cause = Some(Cause::Ended);
        return;
    }
    match &found.cause {
        Some(Cause::OutsideFile(file)) => {
            let queue = process.is_some_and(|pid| is_message_queue(pid, file));
            if queue {
                found.cause = Some(Cause::MessageQueue(Some(file.path.clone())));
            }
        }
        Some(Cause::Inotify(Watched::Unknown)) => {
            if let (Some(pid), Some((device, inode))) = (process, found.watched) {
                found.cause = Some(Cause::Inotify(Watched::File {
                    process: name_of(pid),
                    inode,
                    path: path_of(pid, device, inode),
                }));
            }
        }
        None if lacks_descriptors(init, processes) => found.cause = Some(Cause::NoDescriptor),
        _ => {}
    }
}

/// Whether init, or the process that CRIU could not detach from, has ended.
fn one_has_ended(found: &Diagnosis, init: Init, processes: &[Pid]) -> bool {
    let init_has_ended = || init.has_ended() && !is_dead_leader(init.pid);
    if found.cause == Some(Cause::DeadLeader) {
        // The main thread of a killed process can end before its other threads.
        let leads_threads = || processes.iter().copied().any(is_dead_leader);
        return !processes.is_empty() && comes_true(|| !leads_threads());
    }
    match found.undetached.and_then(|pid| Pid::try_from(pid).ok()) {
        Some(pid) => comes_true(|| init_has_ended() || has_ended(pid)),
        // A killed process leaves the freezer of cgroup v1 only when CRIU gives up.
        None if found.cause == Some(Cause::FreezeTimeout) => comes_true(init_has_ended),
        None => init_has_ended(),
    }
}

/// Whether a condition becomes true within [`DYING`].
fn comes_true(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + DYING;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn has_ended(pid: Pid) -> bool {
    Stat::read(pid).is_none_or(|stat| stat.is_dead() && stat.threads <= 1)
}

fn is_dead_leader(pid: Pid) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_dead() && stat.threads > 1)
}

fn name_of(pid: Pid) -> String {
    match Stat::read(pid) {
        Some(stat) => format!("{pid} ({})", stat.name),
        None => pid.to_string(),
    }
}

fn is_message_queue(pid: Pid, file: &Descriptor) -> bool {
    let path = procfs::of(pid).join("fd").join(file.number.to_string());
    statfs(&path).is_ok_and(|system| system.filesystem_type() == MQUEUE)
}

/// Whether init or one of its descendants has too few free descriptors.
fn lacks_descriptors(init: Init, processes: &[Pid]) -> bool {
    let stats = stats_of(processes);
    processes
        .iter()
        .filter(|pid| descends(**pid, init.pid, &stats))
        .any(|pid| free_descriptors(*pid, ENOUGH).is_some_and(|free| free < ENOUGH))
}

/// The path of a file in a container, by the kernel's device and inode numbers.
fn path_of(pid: Pid, device: u64, inode: u64) -> Option<String> {
    // The kernel's own encoding (linux/kdev_t.h), not that of stat(2).
    let (major, minor) = ((device >> 20) as u32, (device & 0xf_ffff) as u32);
    let root = procfs::root(pid);
    let mounts: HashSet<PathBuf> = mountinfo::of(pid)
        .ok()?
        .iter()
        .filter_map(|mount| Some(root.join(mount.mountpoint.strip_prefix("/").ok()?)))
        .collect();
    let bounds = Bounds {
        names: NAMES,
        end: Instant::now() + TIME,
    };
    let found = search(&root, &mounts, libc::makedev(major, minor), inode, bounds)?;
    let path = found.strip_prefix(&root).ok()?;
    Some(Path::new("/").join(path).display().to_string())
}

/// Searches for a file below `root` in its file system, level by level, so that one deep
/// tree does not use up the names. Mountpoints are not accessed, because a frozen
/// process of the container may serve their file system.
fn search(
    root: &Path,
    mounts: &HashSet<PathBuf>,
    device: u64,
    inode: u64,
    mut bounds: Bounds,
) -> Option<PathBuf> {
    let is_file = |meta: &fs::Metadata| (meta.dev(), meta.ino()) == (device, inode);
    let top = fs::metadata(root.join(".")).ok()?;
    if is_file(&top) {
        return Some(root.to_owned());
    }
    let mut ahead = VecDeque::from([root.to_owned()]);
    while let Some(dir) = ahead.pop_front() {
        if Instant::now() > bounds.end {
            return None;
        }
        // An unreadable directory is skipped.
        let Ok(entries) = fs::read_dir(dir.join(".")) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            bounds.names = bounds.names.checked_sub(1)?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // Overlay may list another inode number than stat returns.
            if !is_dir && entry.ino() != inode {
                continue;
            }
            let path = dir.join(entry.file_name());
            if is_dir && mounts.contains(&path) {
                continue;
            }
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if is_file(&meta) {
                return Some(path);
            }
            if is_dir && meta.dev() == top.dev() {
                ahead.push_back(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;

    #[test]
    fn files_are_found_by_inode_within_the_limits() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("a/b");
        fs::create_dir_all(&deep).expect("directories");
        fs::write(deep.join("file"), "x").expect("file");
        let meta = fs::metadata(deep.join("file")).expect("there");
        let bounds = |names| Bounds {
            names,
            end: Instant::now() + Duration::from_secs(60),
        };
        let none = HashSet::new();
        let find = |inode, names| search(dir.path(), &none, meta.dev(), inode, bounds(names));
        assert_eq!(find(meta.ino(), 100), Some(deep.join("file")));
        assert_eq!(find(meta.ino(), 2), None, "too many names");
        let b = fs::metadata(&deep).expect("there").ino();
        assert_eq!(find(b, 100), Some(deep.clone()));
        let elsewhere = meta.dev() + 1;
        assert_eq!(search(dir.path(), &none, elsewhere, b, bounds(100)), None);
        let mounts = HashSet::from([dir.path().join("a")]);
        let below = search(dir.path(), &mounts, meta.dev(), b, bounds(100));
        assert_eq!(below, None, "below a mount");
        let late = Bounds {
            end: Instant::now(),
            ..bounds(100)
        };
        assert_eq!(search(dir.path(), &none, meta.dev(), b, late), None);
    }

    #[test]
    fn an_ended_container_explains_an_unknown_cause() {
        let unknown = || Diagnosis {
            error: Some("cg: BUG".into()),
            ..Diagnosis::default()
        };
        let own = Pid::own();
        let mut found = unknown();
        complete(&mut found, Init::now(own), &[]);
        assert_eq!(found.cause, None);
        let ended = Init {
            pid: own,
            started: Some(0),
        };
        complete(&mut found, ended, &[]);
        assert_eq!(found.cause, Some(Cause::Ended));
        // A known cause is kept.
        let mut found = unknown();
        found.cause = Some(Cause::PacketPipe);
        complete(&mut found, ended, &[]);
        assert_eq!(found.cause, Some(Cause::PacketPipe));
    }

    #[test]
    fn a_missing_mount_or_a_namespace_of_a_process_that_has_ended() {
        let own = std::process::id();
        let init = Init::now(Pid::own());
        let ended = Init {
            started: Some(0),
            ..init
        };
        for cause in [
            Cause::MissingMount("./sys/firmware".into()),
            Cause::NestedNamespace("ipc".into()),
            Cause::FreezeTimeout,
        ] {
            let found = |undetached| Diagnosis {
                cause: Some(cause.clone()),
                undetached,
                ..Diagnosis::default()
            };
            let completed = |mut found: Diagnosis, init| {
                complete(&mut found, init, &[]);
                found.cause
            };
            assert_eq!(completed(found(None), init), Some(cause.clone()));
            assert_eq!(completed(found(None), ended), Some(Cause::Ended));
            // CRIU had let it run.
            assert_eq!(completed(found(Some(own)), init), Some(cause.clone()));
            // No PID is as large (PID_MAX_LIMIT of the kernel).
            let none = Some(i32::MAX.cast_unsigned());
            assert_eq!(completed(found(none), init), Some(Cause::Ended));
        }
    }

    #[test]
    fn a_dead_leader_with_threads_that_have_ended_too() {
        let dead_leader = || Diagnosis {
            cause: Some(Cause::DeadLeader),
            ..Diagnosis::default()
        };
        let own = Pid::own();
        let mut found = dead_leader();
        complete(&mut found, Init::now(own), &[own]);
        assert_eq!(found.cause, Some(Cause::Ended));
        let mut found = dead_leader();
        complete(&mut found, Init::now(own), &[]);
        assert_eq!(found.cause, Some(Cause::DeadLeader), "no process is known");
    }

    #[test]
    fn a_file_outside_that_is_no_queue_stays_one() {
        let outside = Cause::OutsideFile(Descriptor {
            number: 0,
            path: "/x".into(),
        });
        let mut found = Diagnosis {
            cause: Some(outside.clone()),
            process: Some(std::process::id()),
            ..Diagnosis::default()
        };
        complete(&mut found, Init::now(pid(1)), &[]);
        assert_eq!(found.cause, Some(outside));
    }
}
