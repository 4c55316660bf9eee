//! Page images in memory (memfds) while they are captured.
//!
//! CRIU writes faster than its images can be stored, and in a disk's page cache they
//! are dirty. Beyond a tenth of the free memory (`vm.dirty_background_ratio`) the
//! kernel begins to write them to disk, which is useless work. Beyond a higher limit
//! CRIU waits for this write-back (`balance_dirty_pages`), and the frozen application
//! waits for CRIU. A memfd has no write-back. Allocating its pages takes a little
//! longer, so it is used only if write-back would start.
//!
//! Its memory can't be freed before it is stored, so twice the expected size must
//! be available, on the machine and within this process's cgroup limits, and only
//! one checkpoint at a time uses it.
//!
//! CRIU makes its images in a directory (`openat` with `O_CREAT` and `O_TRUNC`,
//! criu/image.c). For images in memory, symbolic links to descriptors of this
//! process exist before, under the names that CRIU uses in turn. When this process
//! and CRIU have exited, only broken links remain. Images beyond the number of
//! links are on disk.
//!
//! A link names this process's PID, and CRIU, as root, writes to its target. If this
//! process is killed, its PID must not be reused while CRIU runs. The kernel does
//! not reuse the ID of a session with a living process, so this process starts a
//! session, which CRIU inherits. A process with a terminal, or a process group
//! leader, can't start one: then no memory is used.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, Inotify, WatchDescriptor};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getpid, getsid, setsid};

/// The expected output of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of all page images, as far as they are known.
    pub bytes: u64,
    /// Number of processes.
    pub processes: usize,
}

/// Extra images, for shared memory.
const SHARED: usize = 8;

/// Maximum number of files: each takes a descriptor, and a process may have about
/// a thousand.
const MOST: usize = 256;

/// The files, and their links.
pub(super) struct Memory {
    dir: PathBuf,
    files: HashMap<String, File>,
    _alone: Option<Flock<File>>,
}

impl Memory {
    /// Creates files for the expected images; `None` if write-back would not start,
    /// if memory is short, or if the PID could be reused.
    pub(super) fn for_images(dir: &Path, expected: Expected) -> Option<Self> {
        let machine = Machine::now()?;
        if !machine.suits(expected.bytes) {
            return None;
        }
        if !keeps_its_pid() {
            return None;
        }
        // Another cedana-runc that uses memory holds this lock until it exits.
        let program = File::open("/proc/self/exe").ok()?;
        let alone = Flock::lock(program, FlockArg::LockExclusiveNonblock).ok()?;
        // On failure the images are on disk.
        let mut memory = Self::make(dir, (expected.processes + SHARED).min(MOST)).ok()?;
        memory._alone = Some(alone);
        Some(memory)
    }

    /// Creates files for `files` images.
    pub(super) fn make(dir: &Path, files: usize) -> io::Result<Self> {
        // Dropping it on an error removes the links made so far.
        let mut memory = Self {
            dir: dir.to_owned(),
            files: HashMap::new(),
            _alone: None,
        };
        for number in 1..=files {
            let name = format!("pages-{number}.img");
            let file = File::from(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?);
            let path = format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd());
            let link = dir.join(&name);
            symlink(path, &link)?;
            let there = fs::metadata(&link);
            let here = file.metadata();
            memory.files.insert(name, file);
            // They differ if /proc is another PID namespace's.
            if there?.ino() != here?.ino() {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
        Ok(memory)
    }

    /// Whether `name` is one of the files and is empty.
    pub(super) fn has_empty(&self, name: &str) -> bool {
        let meta = self.files.get(name).and_then(|file| file.metadata().ok());
        meta.is_some_and(|meta| meta.len() == 0)
    }

    /// Adds a watch for opening and closing of each file.
    pub(super) fn watch(&self, inotify: &Inotify) -> nix::Result<HashMap<WatchDescriptor, String>> {
        let events = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_WRITE;
        self.files
            .keys()
            .map(|name| {
                let watch = inotify.add_watch(&self.dir.join(name), events)?;
                Ok((watch, name.clone()))
            })
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for name in self.files.keys() {
            // Links of stored images have been removed already.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

/// Whether this process's PID can't be reused while a child of it runs.
fn keeps_its_pid() -> bool {
    let leads = getsid(None).is_ok_and(|session| session == getpid());
    leads || (File::open("/dev/tty").is_err() && setsid().is_ok())
}

/// Memory limits of the machine, in bytes.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Available without swapping and within this process's cgroup limits.
    available: u64,
    /// Limit of dirty memory before write-back starts.
    undisturbed: u64,
}

impl Machine {
    fn now() -> Option<Self> {
        let vm = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(Path::new("/proc/sys/vm").join(name)).ok()?;
            text.trim().parse().ok()
        };
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let available = available(&text)?;
        let undisturbed = match vm("dirty_background_bytes") {
            // One of the two is set; the other reads as zero.
            None | Some(0) => available / 100 * vm("dirty_background_ratio")?,
            Some(bytes) => bytes,
        };
        let room = our_cgroups().filter_map(|dir| room(&dir)).min();
        Some(Self {
            available: available.min(room.unwrap_or(u64::MAX)),
            undisturbed,
        })
    }

    fn suits(self, bytes: u64) -> bool {
        bytes > self.undisturbed && bytes <= self.available / 2
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The directories of the cgroups that account for this process's memory and
/// CRIU's: from this process's cgroup up to the root.
fn our_cgroups() -> impl Iterator<Item = PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let dir = text.lines().find_map(memory_cgroup);
    dir.into_iter().flat_map(|dir| {
        let ancestors: Vec<_> = dir.ancestors().map(Path::to_owned).collect();
        ancestors
            .into_iter()
            .take_while(|dir| dir != Path::new("/sys/fs"))
    })
}

/// The cgroup that a line of /proc/PID/cgroup names, if it accounts for memory
/// (cgroups(7)).
fn memory_cgroup(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let root = match controllers {
        "" => "/sys/fs/cgroup",
        _ if controllers.split(',').any(|name| name == "memory") => "/sys/fs/cgroup/memory",
        _ => return None,
    };
    Some(Path::new(root).join(path.trim_start_matches('/')))
}

/// Bytes left below a cgroup's limit; `None` if it has none.
fn room(dir: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        // "max" is not a number.
        text.trim().parse().ok()
    };
    let (limit, used) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")),
        None => (
            number("memory.limit_in_bytes")?,
            number("memory.usage_in_bytes"),
        ),
    };
    Some(limit.saturating_sub(used?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_only_if_write_back_would_start_and_memory_suffices() {
        let machine = Machine {
            available: 1000,
            undisturbed: 100,
        };
        assert!(!machine.suits(100));
        assert!(machine.suits(101));
        assert!(machine.suits(500));
        assert!(!machine.suits(501));
    }

    #[test]
    fn meminfo_and_cgroup_lines_are_parsed() {
        let meminfo = "MemTotal: 24105 kB\nMemFree: 1 kB\nMemAvailable:   23000 kB\n";
        assert_eq!(available(meminfo), Some(23000 * 1024));
        assert_eq!(available("MemTotal: 1 kB"), None);
        assert_eq!(
            memory_cgroup("0::/system.slice/x").as_deref(),
            Some(Path::new("/sys/fs/cgroup/system.slice/x"))
        );
        assert_eq!(
            memory_cgroup("4:cpu,memory:/a:b").as_deref(),
            Some(Path::new("/sys/fs/cgroup/memory/a:b"))
        );
        assert_eq!(memory_cgroup("3:cpu:/a"), None);
        assert_eq!(memory_cgroup(""), None);
    }

    #[test]
    fn room_below_a_cgroup_limit() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(room(dir.path()), None);
        for (name, text) in [("memory.max", "max\n"), ("memory.current", "30\n")] {
            fs::write(dir.path().join(name), text).expect("write");
        }
        assert_eq!(room(dir.path()), None);
        fs::write(dir.path().join("memory.max"), "100\n").expect("write");
        assert_eq!(room(dir.path()), Some(70));
    }
}
