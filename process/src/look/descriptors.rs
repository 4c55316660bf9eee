//! The descriptors of the processes: which are not their own.
//!
//! A pipe is a process's own if both ends are in the tree, or if no other process has
//! one. A terminal is its own if the master side is in the tree. What the caller holds
//! (a supervisor's log pipes and terminal: [`DumpOptions::held`]) is left out of the
//! checkpoint, and the caller gives others at the restore. The file of a supervisor
//! ([`DumpOptions::output`]) is in the checkpoint, and the caller may give another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cedana_checkpoint::host::procfs::{self, Stat};
use cedana_contract::pid::Pid;
use cedana_contract::pidfd;
use nix::libc;

use super::Tree;
use crate::obstacle::Obstacle;
use crate::options::DumpOptions;

/// `IPPROTO_MPTCP` of the kernel's include/uapi/linux/in.h.
const MPTCP: libc::c_int = 262;

/// The major numbers of pseudo-terminals' slaves (devices.txt of the kernel).
const PTS: std::ops::RangeInclusive<u32> = 136..=143;
/// The major number of other terminals: consoles and serial lines.
const TTY: u32 = 4;

/// An open descriptor.
pub(super) struct Descriptor {
    pid: Pid,
    pub(super) fd: i32,
    pub(super) target: String,
}

impl Descriptor {
    fn path(&self) -> PathBuf {
        procfs::of(self.pid).join("fd").join(self.fd.to_string())
    }
}

/// Checks all descriptors of a tree, and notes those that are left out.
pub(super) fn check(
    tree: &mut Tree,
    root: Pid,
    options: &DumpOptions,
    stats: &HashMap<Pid, Stat>,
    found: &mut Vec<Obstacle>,
) {
    let all: Vec<Descriptor> = tree.processes.iter().flat_map(|pid| of(*pid)).collect();
    let masters = all
        .iter()
        .any(|descriptor| descriptor.target.ends_with("/ptmx"));
    let mut pipes: BTreeMap<&str, Vec<&Descriptor>> = BTreeMap::new();
    let mut mounts = BTreeMap::new();
    for descriptor in &all {
        let Descriptor { pid, fd, target } = descriptor;
        let (pid, fd) = (*pid, *fd);
        if target.starts_with("pipe:[") {
            pipes.entry(target).or_default().push(descriptor);
        } else if let Some((what, remedy)) = unsupported(target) {
            let what = what.to_owned();
            found.push(Obstacle::Unsupported {
                pid,
                fd,
                what,
                remedy,
            });
        } else if target.ends_with("/net/tun") {
            // Without a device CRIU can restore it (criu/tun.c).
            if let Some(device) = fdinfo(pid, fd, "iff:").filter(|device| !device.is_empty()) {
                found.push(Obstacle::Unsupported {
                    pid,
                    fd,
                    what: format!("the tun device {device}, which CRIU can't restore"),
                    remedy: "end the process or have it close the device",
                });
            }
        } else if target.starts_with("socket:[") {
            if is_mptcp(pid, fd) {
                found.push(Obstacle::Unsupported {
                    pid,
                    fd,
                    what: "an MPTCP socket, which CRIU does not support".to_owned(),
                    remedy: "turn MPTCP off in the program (Go: GODEBUG=multipathtcp=0)",
                });
            }
        } else if target.starts_with('/') {
            match terminal(&descriptor.path()) {
                Some(key) if options.held.contains(&fd) || tree.terminal.as_ref() == Some(&key) => {
                    tree.terminal = Some(key);
                }
                Some(_) if !masters && !options.shell_job => found.push(Obstacle::Terminal {
                    pid,
                    fd,
                    path: target.clone(),
                }),
                Some(_) => {}
                None if is_foreign(pid, fd, &mut mounts) => found.push(Obstacle::ForeignMount {
                    pid,
                    fd,
                    path: target.clone(),
                }),
                None => {}
            }
        }
    }
    if let Some(path) = &options.output {
        tree.inherited.extend(output(path, root, &all));
    }
    let lone: Vec<(&str, &Descriptor)> = pipes
        .into_iter()
        .filter(|(_, ends)| !has_both(ends))
        .filter_map(|(pipe, ends)| Some((pipe, *ends.first()?)))
        .collect();
    if lone.is_empty() {
        return;
    }
    let names: BTreeSet<&str> = lone.iter().map(|(pipe, _)| *pipe).collect();
    let others = holders(&names, tree, stats);
    for (pipe, descriptor) in lone {
        let Descriptor { pid, fd, .. } = *descriptor;
        match others.get(pipe) {
            Some(_) if options.held.contains(&fd) && pid == root => {
                tree.inherited.insert(fd, pipe.to_owned());
            }
            Some(&other) => found.push(Obstacle::Pipe { pid, fd, other }),
            None => {}
        }
    }
}

/// CRIU's key of the supervisor's file, by the root's descriptors of it, or by the
/// standard output if only other processes have it open.
///
/// CRIU puts one descriptor in place of all that have the path (criu/files-reg.c,
/// `open_path`), so a file that is also open in another way is left to CRIU.
fn output(path: &Path, root: Pid, all: &[Descriptor]) -> BTreeMap<i32, String> {
    let is_it = |descriptor: &&Descriptor| Path::new(&descriptor.target) == path;
    let key = path.to_string_lossy().trim_start_matches('/').to_owned();
    if !all.iter().filter(is_it).all(appends) {
        return BTreeMap::new();
    }
    let mut holders = all.iter().filter(is_it).peekable();
    let is_open = holders.peek().is_some();
    let mut numbers: BTreeMap<i32, String> = holders
        .filter(|descriptor| descriptor.pid == root)
        .map(|descriptor| (descriptor.fd, key.clone()))
        .collect();
    if is_open && numbers.is_empty() {
        numbers.insert(libc::STDOUT_FILENO, key);
    }
    numbers
}

/// Whether a descriptor can only append.
fn appends(descriptor: &Descriptor) -> bool {
    let only = libc::O_ACCMODE | libc::O_APPEND;
    flags(descriptor).is_some_and(|flags| flags & only == libc::O_WRONLY | libc::O_APPEND)
}

/// A process's descriptors.
pub(super) fn of(pid: Pid) -> Vec<Descriptor> {
    let entries = fs::read_dir(procfs::of(pid).join("fd"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let fd = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            Some(Descriptor { pid, fd, target })
        })
        .collect()
}

/// What CRIU does not dump.
fn unsupported(target: &str) -> Option<(&'static str, &'static str)> {
    Some(match target {
        "anon_inode:[io_uring]" => (
            "an io_uring, which CRIU does not support",
            "start the program with io_uring off (Node.js: UV_USE_IO_URING=0; sysctl kernel.io_uring_disabled=2)",
        ),
        "anon_inode:[userfaultfd]" => (
            "a userfaultfd, which CRIU does not support",
            "checkpoint it when it has ended its use",
        ),
        "anon_inode:[perf_event]" => (
            "a performance counter, which CRIU does not support",
            "end the profiler",
        ),
        "anon_inode:seccomp notify" => (
            "a seccomp listener, which CRIU does not support",
            "checkpoint the process that it supervises instead",
        ),
        _ if target.starts_with("/dev/fuse") => (
            "a FUSE device, which CRIU does not support",
            "unmount the file system that the process serves",
        ),
        _ => return None,
    })
}

/// CRIU's key of a terminal (criu/tty.c); `None` if the file is none.
fn terminal(path: &Path) -> Option<String> {
    let status = fs::metadata(path).ok()?;
    let major = libc::major(status.rdev());
    let is_device = status.mode() & libc::S_IFMT == libc::S_IFCHR;
    (is_device && (PTS.contains(&major) || major == TTY))
        .then(|| format!("tty[{:x}:{:x}]", status.rdev(), status.dev()))
}

/// Whether the tree has the reading and the writing end of a pipe.
fn has_both(ends: &[&Descriptor]) -> bool {
    let modes: BTreeSet<i32> = ends.iter().filter_map(|end| access(end)).collect();
    modes.contains(&libc::O_RDWR)
        || (modes.contains(&libc::O_RDONLY) && modes.contains(&libc::O_WRONLY))
}

fn access(descriptor: &Descriptor) -> Option<i32> {
    Some(flags(descriptor)? & libc::O_ACCMODE)
}

/// The flags of open(2).
fn flags(descriptor: &Descriptor) -> Option<i32> {
    let flags = fdinfo(descriptor.pid, descriptor.fd, "flags:")?;
    i32::from_str_radix(&flags, 8).ok()
}

/// A field of /proc/PID/fdinfo (proc_pid_fdinfo(5)).
pub(super) fn fdinfo(pid: Pid, fd: i32, field: &str) -> Option<String> {
    let path = procfs::of(pid).join("fdinfo").join(fd.to_string());
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().to_owned())
}

/// Whether a file is on a mount that is not in the process's mount namespace.
fn is_foreign(pid: Pid, fd: i32, mounts: &mut BTreeMap<Pid, BTreeSet<String>>) -> bool {
    let Some(mount) = fdinfo(pid, fd, "mnt_id:") else {
        return false;
    };
    let known = mounts.entry(pid).or_insert_with(|| {
        let text = fs::read_to_string(procfs::of(pid).join("mountinfo")).unwrap_or_default();
        let first = |line: &str| Some(line.split(' ').next()?.to_owned());
        text.lines().filter_map(first).collect()
    });
    !known.is_empty() && !known.contains(&mount)
}

/// The processes outside of the tree that have one of these pipes open.
fn holders(
    pipes: &BTreeSet<&str>,
    tree: &Tree,
    stats: &HashMap<Pid, Stat>,
) -> BTreeMap<String, Pid> {
    let mut holders = BTreeMap::new();
    for pid in stats.keys().filter(|pid| !tree.processes.contains(pid)) {
        for descriptor in of(*pid) {
            if pipes.contains(descriptor.target.as_str()) {
                holders.insert(descriptor.target, *pid);
            }
        }
    }
    holders
}

fn is_mptcp(pid: Pid, fd: i32) -> bool {
    let copy = |pidfd: OwnedFd| pidfd::descriptor(pidfd.as_fd(), fd).ok();
    let Some(socket) = pidfd::open(pid).ok().and_then(copy) else {
        return false;
    };
    let mut protocol: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes to `protocol`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PROTOCOL,
            (&raw mut protocol).cast(),
            &raw mut length,
        )
    };
    result == 0 && protocol == MPTCP
}
