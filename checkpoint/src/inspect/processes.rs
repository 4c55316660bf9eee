//! The process tree.

use serde::Serialize;

use super::files::{Files, OpenFile};
use super::memory::{Memory, Pages};
use crate::images::dir::Dir;
use crate::images::proto::{Core, Fs, Ids, PstreeEntry};
use crate::images::{Error, Images, pstree};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its ID within the container.
    pub pid: u32,
    /// Its parent's PID; 0 for the container's init.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its state.
    pub state: ProcessState,
    /// Its command's name, up to 15 bytes, as ps(1) shows it.
    pub comm: String,
    /// Effective user.
    pub uid: Option<u32>,
    /// Effective group.
    pub gid: Option<u32>,
    /// The program that it runs.
    pub executable: Option<String>,
    /// Its working directory.
    pub directory: Option<String>,
    /// Its threads, the main thread first.
    pub threads: Vec<Thread>,
    /// Its memory; `None` for a zombie.
    pub memory: Option<Memory>,
    /// Its descriptors.
    pub files: Vec<OpenFile>,
}

/// The state of a process at the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Running or waiting.
    Running,
    /// Stopped by a signal.
    Stopped,
    /// Ended, and its parent had not waited for it.
    Zombie,
    /// Unknown to this version.
    Unknown,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its ID.
    pub tid: u32,
    /// Its name, if it differs from the process's.
    pub comm: Option<String>,
}

/// A process, with data that the whole inspection uses.
pub(super) struct Found {
    pub(super) process: Process,
    pub(super) ids: Option<Ids>,
    pub(super) machine: Option<&'static str>,
}

pub(super) fn read<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    files: &Files,
    pages: &mut Pages,
) -> Result<Vec<Found>, Error> {
    pstree::processes(dir)?
        .into_iter()
        .map(|entry| process(dir, entry, files, pages))
        .collect()
}

fn process<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    entry: PstreeEntry,
    files: &Files,
    pages: &mut Pages,
) -> Result<Found, Error> {
    let pid = entry.pid;
    let core = dir
        .first::<Core>(&format!("core-{pid}.img"))?
        .unwrap_or_default();
    let task = core.tc.unwrap_or_default();
    let creds = core.thread_core.and_then(|thread| thread.creds);
    // They are in a separate image, or in the core before CRIU 2.
    let ids = dir.first::<Ids>(&format!("ids-{pid}.img"))?.or(core.ids);
    let fs = dir.first::<Fs>(&format!("fs-{pid}.img"))?;
    let (memory, executable) = match Memory::read(dir, pid, files, pages)? {
        Some((memory, executable)) => (Some(memory), files.path(executable)),
        None => (None, None),
    };
    let mut threads = Vec::new();
    for tid in entry.threads {
        let name = if tid == pid {
            None
        } else {
            let core = dir.first::<Core>(&format!("core-{tid}.img"))?;
            core.and_then(|core| core.thread_core?.comm)
        };
        threads.push(Thread {
            tid,
            comm: name.filter(|name| *name != task.comm),
        });
    }
    let process = Process {
        pid,
        ppid: entry.ppid,
        pgid: entry.pgid,
        sid: entry.sid,
        state: ProcessState::of(task.task_state),
        comm: task.comm,
        uid: creds.as_ref().map(|creds| creds.euid),
        gid: creds.as_ref().map(|creds| creds.egid),
        executable,
        directory: fs.and_then(|fs| files.path(fs.cwd_id)),
        threads,
        memory,
        files: match &ids {
            Some(ids) => files.table(dir, ids.files_id)?,
            None => Vec::new(),
        },
    };
    Ok(Found {
        process,
        ids,
        machine: machine(core.mtype),
    })
}

impl ProcessState {
    /// Maps the numbers of CRIU's compel/include/uapi/task-state.h.
    fn of(number: u32) -> Self {
        match number {
            1 => Self::Running,
            3 => Self::Stopped,
            2 | 6 => Self::Zombie,
            _ => Self::Unknown,
        }
    }
}

/// The machine's architecture as uname(2) names it.
fn machine(number: u32) -> Option<&'static str> {
    const MACHINES: [&str; 9] = [
        "unknown",
        "x86_64",
        "arm",
        "aarch64",
        "ppc64",
        "s390",
        "mips",
        "loongarch64",
        "riscv64",
    ];
    MACHINES
        .get(number as usize)
        .copied()
        .filter(|_| number != 0)
}
