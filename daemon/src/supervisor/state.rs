//! The state of a supervisor.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Instant;

use nix::sys::signalfd::SignalFd;

use super::backoff::Backoff;
use super::clients::Clients;
use super::program::Program;
use super::protocol::{Decoder, Status};
use crate::job::files::JobFiles;
use crate::job::spec::{Exit, Spec, TerminalSize};
use crate::worker::Stored;

/// What the supervisor waits for.
pub(super) enum Stage {
    /// The program's end.
    Running(Program),
    /// The end of what the program has left behind.
    Clearing(Program, Exit),
    /// The time of the next run.
    Waiting(Instant, Exit),
    /// That the clients read the end.
    Leaving(Instant),
}

/// A dump that is under way.
pub(super) struct Dumping {
    /// The connection that asked for it.
    pub(super) client: u64,
    pub(super) child: Child,
    pub(super) stream: UnixStream,
    pub(super) decoder: Decoder,
    /// Whether the client knows the result.
    pub(super) has_result: bool,
    /// Whether nothing more comes from the worker.
    pub(super) is_silent: bool,
}

pub(super) struct Supervisor {
    pub(super) files: JobFiles,
    pub(super) spec: Spec,
    pub(super) output: File,
    pub(super) signals: SignalFd,
    pub(super) listener: UnixListener,
    pub(super) clients: Clients,
    pub(super) stage: Stage,
    pub(super) status: Status,
    /// What is typed and the terminal has not taken yet.
    pub(super) typed: Vec<u8>,
    pub(super) size: TerminalSize,
    pub(super) started: Instant,
    pub(super) backoff: Backoff,
    /// Whether a user has ended the job, whatever its policy says.
    pub(super) ended_by_user: bool,
    /// A dump that is under way.
    pub(super) dumping: Option<Dumping>,
    /// The checkpoint that ends the program, or has ended it.
    pub(super) ending: Option<Stored>,
    /// A CRIU whose worker was killed, and which may still end the program.
    pub(super) orphan: Option<i32>,
}

impl Supervisor {
    /// Passes one buffer of the terminal's output on. Returns whether there was any.
    pub(super) fn show_output(&mut self) -> bool {
        let (Stage::Running(program) | Stage::Clearing(program, _)) = &mut self.stage else {
            return false;
        };
        let Some(terminal) = &mut program.terminal else {
            return false;
        };
        let mut buffer = [0; 4096];
        let n = match terminal.master.read(&mut buffer) {
            Ok(n @ 1..) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            // EIO: the session has ended, or the program has hung its terminal up. There
            // is nothing more to read, and poll would report that without end.
            Ok(_) | Err(_) => {
                program.terminal = None;
                return false;
            }
        };
        // On a full disk the clients still see it.
        let _ = self.output.write_all(&buffer[..n]);
        self.clients.show(&buffer[..n]);
        true
    }
}
