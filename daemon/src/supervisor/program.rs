//! Starts a job's program.
//!
//! ```text
//! supervisor ── fork ──► child: own session, terminal, limits, groups, user, log ── exec
//!      ▲                    │
//!      └── the failed step ─┘  (a pipe that exec closes)
//! ```
//!
//! The child becomes the caller before it touches a path, so a directory, a log file or
//! a program that the caller can't reach is not reached. It gets nothing but descriptors
//! 0 to 2, and those are the job's own: CRIU can restore a file of the job's directory
//! or a terminal of its supervisor, but nothing that was inherited.
//!
//! The program gets no parent-death signal: it would be in a checkpoint, and CRIU's exit
//! would kill the restored program.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::unistd::pipe2;

use super::child::{Child, Step};
use super::sys;
use crate::job::files::JobFiles;
use crate::job::spec::{Spec, TerminalSize};

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    /// Its first process, which leads its session and process group.
    pub(super) pid: i32,
    /// The child that ends with it: the same, or the keeper of its PID namespace.
    pub(super) child: i32,
    /// The supervisor's end of its terminal.
    pub(super) terminal: Option<Terminal>,
}

/// A terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// What the supervisor reads and writes; never blocks.
    pub(super) master: File,
    /// Kept open: without any open slave, reading from the master is an error.
    slave: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of this user.
    pub(super) fn open(size: TerminalSize, uid: u32) -> io::Result<Self> {
        let OpenptyResult { master, slave } = openpty(None, None)?;
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // The program may open its terminal again (/dev/tty, /dev/stderr).
        fchown(&slave, Some(uid), None)?;
        sys::set_terminal_size(master.as_fd(), size)?;
        Ok(Self {
            master: master.into(),
            slave,
        })
    }

    /// The program's end.
    pub(super) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// Changes the size. The kernel sends SIGWINCH to the processes in the foreground.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        Ok(sys::set_terminal_size(self.master.as_fd(), size)?)
    }

    /// Sends SIGWINCH, so that a full-screen program draws itself for a new client.
    pub(super) fn redraw(&self) {
        if let Ok(group) = sys::foreground_group(self.master.as_fd()) {
            // A group that has just ended needs none.
            let _ = sys::kill(-group.as_raw(), libc::SIGWINCH);
        }
    }
}

/// Opens the job's own output file, which belongs to the program's user: programs open
/// /dev/stdout again.
pub(super) fn open_output(files: &JobFiles, spec: &Spec) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(files.output())?;
    fchown(
        &file,
        Some(spec.credentials.uid),
        Some(spec.credentials.gid),
    )?;
    Ok(file)
}

/// Starts the program.
///
/// # Errors
/// The step that failed, for people.
pub(super) fn start(spec: &Spec, output: &File, size: TerminalSize) -> Result<Program, String> {
    let internal = |error: io::Error| format!("cannot prepare the start of the program: {error}");
    let Some((program, arguments)) = spec.arguments.split_first() else {
        return Err("no program was given".to_owned());
    };
    let terminal = spec
        .terminal
        .map(|_| Terminal::open(size, spec.credentials.uid))
        .transpose()
        .map_err(|error| format!("cannot open a terminal: {error}"))?;
    let (failed, failing) = pipe2(OFlag::O_CLOEXEC).map_err(|e| internal(e.into()))?;

    let mut command = Command::new(program.as_os_str());
    command
        .args(arguments.iter().map(|argument| argument.as_os_str()))
        .env_clear()
        .envs(
            spec.environment
                .iter()
                .map(|(name, value)| (name.as_os_str(), value.as_os_str())),
        );
    let share = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
    match &terminal {
        Some(terminal) => {
            command
                .stdin(share(&terminal.slave).map_err(internal)?)
                .stdout(share(&terminal.slave).map_err(internal)?)
                .stderr(share(&terminal.slave).map_err(internal)?);
        }
        None => {
            let file = || output.try_clone().map_err(internal);
            command.stdin(Stdio::null()).stdout(file()?).stderr(file()?);
        }
    }
    let mut child = Child::new(spec, failing.as_raw_fd()).map_err(internal)?;
    // SAFETY: `Child::prepare` makes system calls alone, on memory allocated before.
    unsafe { sys::before_exec(&mut command, move || child.prepare()) };
    let started = command.spawn();
    drop(failing);
    match started {
        Ok(started) => Ok(Program {
            pid: started.id().cast_signed(),
            child: started.id().cast_signed(),
            terminal,
        }),
        Err(error) => {
            let mut step = [0];
            let step = match File::from(failed).read(&mut step) {
                Ok(1) => Step::from_byte(step[0]),
                _ => Step::Exec,
            };
            Err(step.explain(spec, &error))
        }
    }
}
