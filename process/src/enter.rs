//! A dump of processes that were restored into a PID namespace of their own
//! ([`crate::init`]): CRIU runs within.
//!
//! ```text
//! caller ── starts ──► helper ── setns, forks ──► relay ── starts ──► CRIU
//!    ▲ │                                          ▲ │                  │ dumps
//!    │ └─ requests, answers ──────────────────────┘ └─────────────────►│
//!    └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Helper and relay are this program, dispatched by [`crate::run_as_helper`]. The relay
//! has the namespace's /proc, where CRIU finds the processes by the IDs that they have
//! within, and the descriptors of its peer ([`crate::relay`]).
//!
//! If the caller or the relay is killed, CRIU's next question has no answer, and CRIU
//! resumes the processes. If the helper is killed, the caller ends the conversation, with
//! the same effect.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use cedana_checkpoint::host::sys;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::criu::criu;
use crate::init::code;
use crate::relay;

/// The first argument of the helper. The others are CRIU's program and the numbers of the
/// descriptors of the PID and the mount namespace.
pub(crate) const FLAG: &str = "--cedana-process-enter";

/// The name of helper and relay.
pub(crate) const NAME: &CStr = c"cedana-enter";

/// The namespaces of processes that were restored into some of their own.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) pid: OwnedFd,
    pub(crate) mount: OwnedFd,
}

impl Namespaces {
    /// The descriptors, which the helper must inherit.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.pid.as_fd(), self.mount.as_fd()]
    }
}

/// The helper's command. `socket` becomes its standard input.
pub(crate) fn command(program: &Path, namespaces: &Namespaces, socket: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cedana-enter").arg(FLAG).arg(program);
    for namespace in namespaces.descriptors() {
        command.arg(namespace.as_raw_fd().to_string());
    }
    command
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Runs the helper.
pub(crate) fn run(program: &Path, pid: &OsStr, mount: &OsStr) -> ExitCode {
    match help(program, pid, mount) {
        Ok(code) => ExitCode::from(code),
        // The caller sees the end of the socket.
        Err(_) => ExitCode::FAILURE,
    }
}

fn help(program: &Path, pid: &OsStr, mount: &OsStr) -> io::Result<u8> {
    sys::rename(NAME);
    let namespace = |number: &OsStr| {
        let number = number.to_str().and_then(|number| number.parse().ok());
        number.ok_or(io::ErrorKind::InvalidInput).map(sys::take_fd)
    };
    let (pid, mount) = (namespace(pid)??, namespace(mount)??);
    setns(&pid, CloneFlags::CLONE_NEWPID)?;
    setns(&mount, CloneFlags::CLONE_NEWNS)?;
    drop((pid, mount));
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = relay::run(criu(program)).map_or(1, |_| 0);
            // Without destructors of the helper's copy.
            std::process::exit(code);
        }
        ForkResult::Parent { child } => {
            // The caller reads the end when the relay has closed its copy.
            let null = File::open("/dev/null")?;
            nix::unistd::dup2_stdin(&null)?;
            drop(null);
            sys::close_all_but_standard()?;
            loop {
                match waitpid(child, None) {
                    Ok(status) => return Ok(code(status)),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}
