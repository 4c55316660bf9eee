//! A process and its children, before anything is frozen.
//!
//! What CRIU would refuse after it has frozen the process, or dump and never restore, is
//! named here with the remedy. All of it is read from /proc and may change until CRIU
//! looks, so CRIU's own reasons remain ([`cedana_checkpoint::criu::Cause`]).

mod descriptors;
mod namespace;
mod owner;
mod warnings;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;

use cedana_checkpoint::host::procfs::{self, Stat, descends, memory};
use cedana_contract::pid::Pid;

use crate::obstacle::Obstacle;
use crate::options::DumpOptions;
use crate::owner::Owner;
pub(crate) use namespace::Within;

/// What a dump needs to know.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The process and its descendants.
    pub(crate) processes: Vec<Pid>,
    /// Bytes of their memory.
    pub(crate) memory: u64,
    /// The command line of the process.
    pub(crate) command: Vec<String>,
    /// Its effective user.
    pub(crate) uid: u32,
    /// The namespaces that an earlier restore made for it.
    pub(crate) within: Option<Within>,
    /// CRIU's key of the terminal that is left out.
    pub(crate) terminal: Option<String>,
    /// CRIU's keys of pipes whose other ends the caller holds, and of the supervisor's
    /// file, by descriptor.
    pub(crate) inherited: BTreeMap<i32, String>,
}

impl Tree {
    /// The PID of the root in its namespace, by the one that it has in this one.
    pub(crate) fn own_pid(&self, pid: Pid) -> Pid {
        self.within.as_ref().map_or(pid, |within| within.root)
    }
}

/// What a dump of a process would meet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// The number of processes: the process and its descendants.
    pub processes: usize,
    /// Bytes of their memory.
    pub memory: u64,
    /// What stops the dump, with the remedy.
    pub obstacles: Vec<Obstacle>,
    /// What would be lost or different after a restore, for people.
    pub warnings: Vec<String>,
}

/// Looks at a process as a dump for `owner` does. Nothing is frozen or changed.
#[must_use]
pub fn examine(pid: Pid, options: &DumpOptions, owner: &Owner) -> Examined {
    let stats = all();
    let (tree, obstacles) = survey(pid, options, owner, &stats);
    Examined {
        processes: tree.processes.len(),
        memory: tree.memory,
        warnings: warnings::of(&tree.processes, &stats),
        obstacles,
    }
}

/// Looks at a process and its children.
pub(crate) fn look(pid: Pid, options: &DumpOptions, owner: &Owner) -> Result<Tree, Vec<Obstacle>> {
    let (tree, found) = survey(pid, options, owner, &all());
    match found.is_empty() {
        true => Ok(tree),
        false => Err(found),
    }
}

/// The tree as far as it can be dumped at all, and all obstacles.
fn survey(
    pid: Pid,
    options: &DumpOptions,
    owner: &Owner,
    stats: &HashMap<Pid, Stat>,
) -> (Tree, Vec<Obstacle>) {
    let none = |obstacle| (Tree::default(), vec![obstacle]);
    let Some(root) = stats.get(&pid) else {
        return none(Obstacle::Missing);
    };
    if let Some(obstacle) = untouchable(pid) {
        return none(obstacle);
    }
    let mut processes: Vec<Pid> = stats
        .keys()
        .filter(|other| descends(**other, pid, stats))
        .copied()
        .collect();
    processes.sort_unstable();
    let within = Within::of(pid);
    let mut found = Vec::new();
    for process in &processes {
        if let Some(stat) = stats.get(process) {
            found.extend(state(pid, *process, stat));
            found.extend(owner::foreign(*process, stat, owner));
            found.extend(program(*process, stat));
        }
        found.extend(namespace::foreign(*process, within.as_ref()));
    }
    found.extend(session(pid, root, &processes, options));
    let mut tree = Tree {
        memory: processes.iter().filter_map(|pid| memory(*pid)).sum(),
        command: command(pid),
        uid: status_uid(pid).unwrap_or_default(),
        processes,
        within,
        ..Tree::default()
    };
    descriptors::check(&mut tree, pid, options, stats, &mut found);
    (tree, found)
}

/// A program that exists in memory only: CRIU stores a memfd that is open or mapped, but not
/// one that is only a program, and the restore fails (criu/memfd.c).
fn program(pid: Pid, stat: &Stat) -> Option<Obstacle> {
    let exe = procfs::of(pid).join("exe");
    let target = fs::read_link(&exe).ok()?;
    let is_memfd = target.to_str()?.starts_with("/memfd:");
    // A file on disk may have such a name, but it has a link.
    let name = stat.name.clone();
    (is_memfd && fs::metadata(&exe).is_ok_and(|program| program.nlink() == 0))
        .then_some(Obstacle::Memfd { pid, name })
}

/// All processes.
fn all() -> HashMap<Pid, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::read(pid)?))
        })
        .collect()
}

/// Why a process is never stopped, by a dump or otherwise: it does not exist, or this
/// program or the machine would stop with it.
pub fn untouchable(pid: Pid) -> Option<Obstacle> {
    if Stat::read(pid).is_none() {
        return Some(Obstacle::Missing);
    }
    if pid.as_raw() == 1 {
        return Some(Obstacle::Init);
    }
    if pid == Pid::own() {
        return Some(Obstacle::Own);
    }
    if is_kernel_thread(pid) {
        return Some(Obstacle::KernelThread);
    }
    is_ancestor(pid, Pid::own()).then_some(Obstacle::Ancestor)
}

/// Whether one process descends from another. Each process has one parent, and a process
/// that ends meanwhile ends the search.
fn is_ancestor(ancestor: Pid, pid: Pid) -> bool {
    let parent = |pid: &Pid| Stat::read(*pid)?.parent;
    // PIDs are reused, so the number of steps is limited.
    std::iter::successors(parent(&pid), parent)
        .take(1 << 16)
        .any(|parent| parent == ancestor)
}

/// Names the debugger of a process, which sees its signals first.
pub fn traced(pid: Pid) -> Option<Obstacle> {
    let tracer = tracer(pid)?;
    let name = Stat::read(pid)?.name;
    Some(Obstacle::Traced {
        pid,
        name,
        tracer: Some(tracer),
    })
}

/// `PF_KTHREAD` of the kernel's include/linux/sched.h, in the flags of /proc/PID/stat.
fn is_kernel_thread(pid: Pid) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let text = fs::read_to_string(procfs::of(pid).join("stat")).unwrap_or_default();
    let flags = text.rsplit_once(')').and_then(|(_, rest)| {
        // Field 9 (proc(5)); what follows the name begins with field 3.
        rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()
    });
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

fn state(root: Pid, pid: Pid, stat: &Stat) -> Option<Obstacle> {
    let name = stat.name.clone();
    match stat.state {
        // Zombies below the root are dumped as such.
        'Z' | 'X' if pid == root && stat.threads > 1 => Some(Obstacle::DeadLeader { pid, name }),
        'Z' | 'X' if pid == root => Some(Obstacle::Dead),
        'Z' if is_dead_leader(pid) => Some(Obstacle::DeadLeader { pid, name }),
        _ if tracer(pid).is_some() => Some(Obstacle::Traced {
            pid,
            name,
            tracer: tracer(pid),
        }),
        'T' => Some(Obstacle::Stopped { pid, name }),
        _ => None,
    }
}

/// Whether a process's main thread has exited and others have not.
fn is_dead_leader(pid: Pid) -> bool {
    let threads = fs::read_dir(procfs::of(pid).join("task"));
    threads.is_ok_and(|threads| threads.count() > 1)
}

fn tracer(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(procfs::of(pid).join("status")).ok()?;
    let tracer = procfs::status_number(&status, "TracerPid:")?;
    i64::try_from(tracer).ok()?.try_into().ok()
}

/// A session whose leader is not in the tree is restored in the restoring one's.
fn session(pid: Pid, root: &Stat, processes: &[Pid], options: &DumpOptions) -> Option<Obstacle> {
    let leader = root.session.filter(|leader| *leader != pid);
    let is_outside =
        root.session.is_none() || leader.is_some_and(|leader| !processes.contains(&leader));
    (is_outside && !options.shell_job).then_some(Obstacle::Session { leader })
}

fn command(pid: Pid) -> Vec<String> {
    let bytes = fs::read(procfs::of(pid).join("cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).take(64);
    let mut words: Vec<String> = words
        .map(|word| String::from_utf8_lossy(word).chars().take(1000).collect())
        .collect();
    // The last one is ended by a NUL, too.
    words.pop();
    words
}

fn status_uid(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(procfs::of(pid).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    fn first(pid: Pid) -> String {
        let found = look(pid, &DumpOptions::default(), &Owner::ROOT).expect_err("an obstacle");
        found[0].to_string()
    }

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleep(prepare: impl FnOnce(&mut Command)) -> Running {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let apart = || {
            nix::unistd::setsid()?;
            let cloexec = nix::libc::CLOSE_RANGE_CLOEXEC;
            // What this process inherited itself is not the child's own.
            // SAFETY: close_range with this flag takes numbers and closes nothing yet.
            unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, cloexec) };
            Ok(())
        };
        // SAFETY: setsid and close_range are async-signal-safe.
        unsafe { command.pre_exec(apart) };
        prepare(&mut command);
        Running(command.spawn().expect("spawn"))
    }

    #[test]
    fn a_process_with_its_own_descriptors_has_no_obstacle() {
        let process = sleep(|_| {});
        let tree =
            look(Pid::of(&process.0), &DumpOptions::default(), &Owner::ROOT).expect("no obstacle");
        assert_eq!(tree.processes, [Pid::of(&process.0)]);
        assert_eq!(tree.command, ["sleep", "1000"]);
        assert!(tree.memory > 0 && tree.inherited.is_empty());
    }

    #[test]
    fn an_inherited_pipe_is_named_or_left_out() {
        let process = sleep(|command| {
            command.stdout(Stdio::piped());
        });
        let pid = Pid::of(&process.0);
        let text = first(pid);
        assert!(
            text.contains("descriptor 1") && text.contains("pipe"),
            "{text}"
        );
        let held = DumpOptions {
            held: vec![0, 1, 2],
            ..DumpOptions::default()
        };
        let tree = look(pid, &held, &Owner::ROOT).expect("the caller's");
        assert!(tree.inherited[&1].starts_with("pipe:["), "{tree:?}");
    }

    #[test]
    fn the_supervisor_s_file_is_noted_by_the_root_s_descriptors() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("output.log");
        let append = || {
            std::fs::File::options()
                .append(true)
                .create(true)
                .open(&path)
        };
        let process = sleep(|command| {
            command.stdout(append().expect("open"));
            command.stderr(append().expect("open"));
        });
        let options = DumpOptions {
            output: Some(path.clone()),
            ..DumpOptions::default()
        };
        let tree = look(Pid::of(&process.0), &options, &Owner::ROOT).expect("no obstacle");
        let key = path.to_string_lossy()[1..].to_owned();
        assert_eq!(tree.inherited, [(1, key.clone()), (2, key)].into());
        // A file that is read, too, can't be replaced.
        let process = sleep(|command| {
            command.stdout(append().expect("open"));
            command.stdin(std::fs::File::open(&path).expect("open"));
        });
        let tree = look(Pid::of(&process.0), &options, &Owner::ROOT).expect("no obstacle");
        assert!(tree.inherited.is_empty(), "{tree:?}");
    }

    #[test]
    fn processes_that_are_never_dumped_are_named() {
        assert!(first(1.try_into().expect("a PID")).contains("init"));
        assert!(first(Pid::own()).contains("this program"));
        let parent = std::os::unix::process::parent_id();
        let text = first(parent.try_into().expect("a PID"));
        assert!(text.contains("ancestor") || text.contains("init"), "{text}");
        let missing = first(i32::MAX.try_into().expect("a PID"));
        assert!(missing.contains("no such process"), "{missing}");
        let mut child = Command::new("true").spawn().expect("spawn");
        let pid = Pid::of(&child);
        while Stat::read(pid).is_some_and(|stat| stat.state != 'Z') {
            std::thread::yield_now();
        }
        assert!(first(pid).contains("has ended"));
        child.wait().expect("wait");
    }

    #[test]
    fn the_processes_of_others_are_not_a_user_s() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let owner = |uid| Owner {
            uid,
            gid: uid,
            groups: Vec::new(),
        };
        let process = sleep(|command| {
            command.uid(12345).gid(12345);
        });
        let pid = Pid::of(&process.0);
        let found = |uid| look(pid, &DumpOptions::default(), &owner(uid));
        found(12345).expect("the user's own");
        let found = found(12346).expect_err("another user's");
        assert!(found[0].to_string().contains("runs as user 12345"));
        let process = sleep(|_| {});
        let found = look(Pid::of(&process.0), &DumpOptions::default(), &owner(12345));
        let found = found.expect_err("root's");
        assert!(found[0].to_string().contains("runs as user 0"));
    }

    #[test]
    fn stopped_processes_and_foreign_sessions_are_named() {
        let process = sleep(|_| {});
        let pid = Pid::of(&process.0);
        nix::sys::signal::kill(pid.into(), nix::sys::signal::Signal::SIGSTOP).expect("kill");
        while Stat::read(pid).is_some_and(|stat| stat.state != 'T') {
            std::thread::yield_now();
        }
        assert!(first(pid).contains("SIGCONT"));
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = Running(child.expect("spawn"));
        assert!(first(Pid::of(&child.0)).contains("session"));
    }
}
