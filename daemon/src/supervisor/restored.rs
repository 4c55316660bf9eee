//! A job that begins with a checkpoint.
//!
//! ```text
//! daemon ── restore.json ──► supervisor ── spawns ──► worker ──► CRIU ──► the program
//!    │                        ▲   │  the supervisor's terminal, output       │
//!    └ closes stdin: cancel ──┘   └──────── its child, as its subreaper ◄────┘
//! ```
//!
//! The program is a grandchild of the worker's; when the worker has ended, it is the
//! supervisor's child, as one that the supervisor has started.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::program::{Program, Terminal};
use super::protocol::{Decoder, Frame, put_message};
use crate::job::spec::{Spec, TerminalSize};
use crate::worker::{self, Failure, Kind, Restore, Restored, Task, Told};

/// Restores the program.
///
/// # Errors
/// Nothing of it runs.
pub(super) fn start(
    task: Restore,
    spec: &Spec,
    output: &File,
    size: TerminalSize,
) -> Result<(Program, Restored), Failure> {
    let system = |error: io::Error| Failure::new(Kind::System, format!("cannot restore: {error}"));
    let terminal = spec
        .terminal
        .map(|_| Terminal::open(size, spec.credentials.uid))
        .transpose()
        .map_err(system)?;
    let output = OwnedFd::from(output.try_clone().map_err(system)?);
    let mut kept: Vec<BorrowedFd<'_>> = vec![output.as_fd()];
    kept.extend(terminal.iter().map(Terminal::slave));
    let task = Task::Restore(Restore {
        terminal: terminal
            .as_ref()
            .map(|terminal| terminal.slave().as_raw_fd()),
        output: Some(output.as_raw_fd()),
        ..task
    });
    let (mut worker, mut socket) = worker::start(&kept).map_err(system)?;
    let mut frame = Vec::new();
    put_message(&mut frame, &task);
    let sent = socket.write_all(&frame);
    let told = sent.and_then(|()| result(&mut socket));
    // Its children are this process's from here on.
    worker.wait().map_err(system)?;
    match told {
        Ok(Some(Told::Restored(restored))) => {
            let program = Program {
                pid: restored.pid,
                child: restored.child,
                terminal,
            };
            Ok((program, restored))
        }
        Ok(Some(Told::Failed(failure))) => Err(failure),
        Ok(_) => Err(Failure::new(Kind::System, "the worker was killed")),
        Err(error) => Err(system(error)),
    }
}

/// Waits for the worker's result. The end of standard input cancels the restore.
fn result(socket: &mut std::os::unix::net::UnixStream) -> io::Result<Option<Told>> {
    let stdin = io::stdin();
    let mut listens = true;
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        let mut ready = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if listens {
            ready.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any() == Some(true));
        let (told, cancelled) = (is_ready(0), is_ready(1));
        if cancelled {
            listens = false;
            socket.shutdown(Shutdown::Write)?;
        }
        if !told {
            continue;
        }
        match socket.read(&mut buffer)? {
            0 => return Ok(None),
            n => decoder.push(&buffer[..n]),
        }
        while let Some(frame) = decoder.take_frame().map_err(io::Error::other)? {
            if let Frame::Message(told @ (Told::Restored(_) | Told::Failed(_))) = frame {
                return Ok(Some(told));
            }
        }
    }
}
