//! A dump or a restore of processes, or an export or an import of a checkpoint, in a process
//! of its own.
//!
//! ```text
//! a job       daemon ──► supervisor ── spawns ──► worker ──► engine, CRIU
//! a process   daemon ── spawns ─────────────────► worker
//!                ▲                                  │
//!                └── progress, result ◄─────────────┘   one socket
//! ```
//!
//! It is the binary `cedana` itself, started as `cedana --cedana-work`. The memory that a
//! checkpoint takes is gone with it, and a fault of the engine ends neither the daemon nor
//! a supervisor. What it is to do comes as one message on its standard input, a socket, on
//! which it answers. If the other end is closed, or its owner is killed, the worker cancels
//! what it does.
//!
//! A restored process becomes the child of the worker's nearest subreaper, a supervisor,
//! when the worker ends.

mod failure;
mod run;
mod task;
mod transfer;

pub use failure::{Failure, Kind};
pub use run::run_if_asked;
pub use task::{
    Compress, Dump, Dumped, Engine, Export, Import, Owner, Podman, Progress, Restore, Restored,
    Stored, Task, Told, Transferred,
};

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cedana_contract::search_path::DEFAULT_SEARCH_PATH;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;

/// The first argument of a worker.
const FLAG: &str = "--cedana-work";

/// Starts a worker, which inherits `kept` under their numbers.
///
/// # Errors
/// The system's.
pub(crate) fn start(kept: &[BorrowedFd<'_>]) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("cedana-worker")
        .arg(FLAG)
        .env_clear()
        .envs(environment())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let kept: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let keep = move || {
        SigSet::empty().thread_set_mask()?;
        for fd in &kept {
            // SAFETY: the parent holds it open until the child has been started.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only async-signal-safe system calls
    // (sigprocmask, fcntl) and allocates nothing.
    unsafe { command.pre_exec(keep) };
    Ok((command.spawn()?, ours))
}

/// The variables that CRIU's programs are found by. A supervisor has none of its own.
fn environment() -> [(&'static str, OsString); 1] {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    [("PATH", path.unwrap_or_else(|| DEFAULT_SEARCH_PATH.into()))]
}

/// The descriptors that are the supervisor's, if the process has its terminal.
pub(crate) fn held(terminal: bool) -> Vec<i32> {
    match terminal {
        true => vec![0, 1, 2],
        false => Vec::new(),
    }
}
