//! What a container's init and an exec'd process have in common: a PID, streams
//! and, once, an end.

use std::{
    path::Path,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::SystemTime,
};

use containerd_shim::protos::protobuf::{MessageField, well_known_types::timestamp::Timestamp};
use nix::{errno::Errno, libc::SIGKILL};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::{
    error::{Error, Result},
    reaper::ExitStatus,
    runtime::{Io, Runtime},
    stdio::{ConsoleSocket, Owner, Pipes, ProcessIo, Stdio},
    sys,
};

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// As a shell reports it.
    pub(crate) status: ExitStatus,
    /// When the shim learned of it.
    pub(crate) at: SystemTime,
}

impl Ended {
    /// The time in containerd's form.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.at.into()
    }
}

/// A process of a container, from before it exists until after its exit.
pub(crate) struct Process {
    /// The streams that the client asked for.
    pub(crate) stdio: Stdio,
    /// Held while the process is being started: its exit is published only
    /// after its start.
    pub(crate) starting: AsyncMutex<()>,
    running: Mutex<Running>,
    /// The OCI runtime that is making it, or 0.
    creating_runtime: AtomicI32,
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Default)]
struct Running {
    pid: i32,
    io: Option<ProcessIo>,
    /// CloseIO was requested. Before the streams exist, it counts for them, too.
    stdin_closed: bool,
    /// Reaped: the kernel may reuse the PID.
    reaped: bool,
}

impl Process {
    /// A process that does not exist yet.
    pub(crate) fn new(stdio: Stdio) -> Self {
        Self {
            stdio,
            starting: AsyncMutex::new(()),
            running: Mutex::default(),
            creating_runtime: AtomicI32::new(0),
            ended: watch::Sender::new(None),
        }
    }

    /// The PID; 0 before the process exists. It is kept after the exit for events and
    /// answers.
    pub(crate) fn pid(&self) -> i32 {
        self.running().pid
    }

    /// The exit, if the process has exited.
    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Waits for the exit.
    pub(crate) async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = *ended.borrow_and_update() {
                return ended;
            }
            // `self` owns the sender, so this can't fail.
            if ended.changed().await.is_err() {
                continue;
            }
        }
    }

    /// Records the exit and wakes all waiters. The first exit counts.
    pub(crate) fn end(&self, status: ExitStatus) -> Ended {
        let ended = Ended {
            status,
            at: SystemTime::now(),
        };
        self.ended.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(ended);
            first
        });
        self.ended().unwrap_or(ended)
    }

    /// Takes the end of a failed start back, before another one.
    pub(crate) fn clear_end(&self) {
        self.ended.send_replace(None);
    }

    /// Records that the process exists.
    pub(crate) fn set_pid(&self, pid: i32) {
        self.running().pid = pid;
    }

    /// Sets the size of its terminal, if it has one.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.running().io {
            Some(io) => io.resize(columns, rows),
            None => Ok(()),
        }
    }

    /// Lets go of its stdin.
    pub(crate) fn close_stdin(&self) {
        let mut running = self.running();
        running.stdin_closed = true;
        if let Some(io) = &running.io {
            io.close_stdin();
        }
    }

    /// Records that the PID no longer is this process's. Its end is announced
    /// later, in its order.
    pub(crate) fn set_reaped(&self) {
        self.running().reaped = true;
    }

    /// Kills the OCI runtime that is making it, which then fails.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none is.
    pub(crate) fn kill_creating_runtime(&self) -> Result<()> {
        match self.creating_runtime.load(Ordering::Relaxed) {
            0 => Err(Error::NotFound("process not created".into())),
            pid => send_signal(pid, SIGKILL.cast_unsigned()),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has ended,
    /// [`Error::FailedPrecondition`] before it exists.
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        // Reaping happens on this thread, so under the lock the PID stays ours.
        let running = self.running();
        match (running.pid, running.reaped) {
            (_, true) => Err(Error::NotFound("process already finished".into())),
            (0, _) => Err(Error::FailedPrecondition("process not created".into())),
            (pid, _) => send_signal(pid, signal),
        }
    }

    /// Delivers the rest of its output and releases its streams.
    pub(crate) async fn finish_io(&self) {
        let io = self.running().io.take();
        if let Some(io) = io {
            io.finish().await;
        }
    }

    /// Lets the OCI runtime make the process by `command`, to which `target`,
    /// the ID, is appended last, and connects its streams.
    ///
    /// # Errors
    /// The runtime's, prefixed by `what`; or that the streams can't be made.
    pub(crate) async fn make(
        &self,
        mut command: Command,
        target: &str,
        runtime: &Runtime,
        bundle: &Path,
        owner: &Owner<'_>,
        what: &str,
    ) -> Result<()> {
        let io = if self.stdio.terminal {
            let console = ConsoleSocket::listen(bundle)?;
            command
                .arg("--console-socket")
                .arg(console.path())
                .arg(target);
            runtime
                .run_with_pid(
                    owner.reaper,
                    command,
                    Io::Quiet,
                    what,
                    &self.creating_runtime,
                )
                .await?;
            ProcessIo::terminal(console.receive().await?, &self.stdio, owner).await?
        } else {
            let (pipes, streams) = Pipes::make(&self.stdio, owner).await?;
            command.arg(target);
            let made = runtime
                .run_with_pid(
                    owner.reaper,
                    command,
                    Io::Container(streams),
                    what,
                    &self.creating_runtime,
                )
                .await;
            match made {
                Ok(()) => pipes.connect(&self.stdio).await?,
                Err(e) => {
                    pipes.discard().await;
                    return Err(e);
                }
            }
        };
        let mut running = self.running();
        if running.stdin_closed {
            io.close_stdin();
        }
        running.io = Some(io);
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a signal by PID.
///
/// # Errors
/// [`Error::NotFound`] when there is no such process.
pub(crate) fn send_signal(pid: i32, signal: u32) -> Result<()> {
    match sys::kill(pid, signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) => Err(Error::NotFound("process already finished".into())),
        Err(e) => Err(Error::Runtime(format!(
            "signal {signal} to process {pid}: {e}"
        ))),
    }
}

/// The end of a process in an answer: nothing while it runs.
pub(crate) fn timestamp(ended: Option<Ended>) -> MessageField<Timestamp> {
    ended.map(|e| e.timestamp()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_end_counts_and_wakes_everybody() {
        let process = Process::new(Stdio::default());
        assert_eq!(process.ended(), None);
        let (first, second) = tokio::join!(process.wait(), async {
            let ended = process.end(7);
            process.end(9);
            ended
        });
        assert_eq!(first, second);
        assert_eq!(process.wait().await.status, 7);
    }
}
