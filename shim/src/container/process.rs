//! A process of a container, init or exec process: PID, standard streams and exit.

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
    reaper::{ExitStatus, Reaper},
    runtime::{Io, Runtime},
    stdio::{ConsoleSocket, Owner, Pipes, ProcessIo, Stdio},
};
use cedana_contract::pid::Pid;

/// The exit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit status as a shell reports it.
    pub(crate) status: ExitStatus,
    /// The time at which the shim recorded the exit.
    pub(crate) at: SystemTime,
}

impl Ended {
    /// The exit time as containerd's message type.
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
    /// The PID of the OCI runtime that is creating the process, or 0.
    creating_runtime: AtomicI32,
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Default)]
struct Running {
    pid: Option<Pid>,
    io: Option<ProcessIo>,
    /// CloseIO was requested, possibly before the streams exist.
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

    /// The PID, kept after the exit for events and answers; `None` before the process
    /// exists.
    pub(crate) fn pid(&self) -> Option<Pid> {
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

    /// Clears the exit that a failed start recorded, before the next start.
    pub(crate) fn clear_end(&self) {
        self.ended.send_replace(None);
    }

    /// Records that the process exists, or, with `None`, that it doesn't exist yet.
    pub(crate) fn set_pid(&self, pid: impl Into<Option<Pid>>) {
        self.running().pid = pid.into();
    }

    /// Sets the size of the process's terminal, if any.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.running().io {
            Some(io) => io.resize(columns, rows),
            None => Ok(()),
        }
    }

    /// Closes stdin.
    pub(crate) fn close_stdin(&self) {
        let mut running = self.running();
        running.stdin_closed = true;
        if let Some(io) = &running.io {
            io.close_stdin();
        }
    }

    /// Records that the process is reaped, so that the kernel may reuse its PID. The
    /// exit is published later, in order.
    pub(crate) fn set_reaped(&self) {
        self.running().reaped = true;
    }

    /// Kills the OCI runtime that is creating the process; the creation then fails.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no runtime is creating the process.
    pub(crate) fn kill_creating_runtime(&self, reaper: &Reaper) -> Result<()> {
        match Pid::try_from(self.creating_runtime.load(Ordering::Relaxed)) {
            Err(_) => Err(Error::NotFound("process not created".into())),
            Ok(pid) => send_signal(reaper, pid, SIGKILL.cast_unsigned()),
        }
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// [`Error::NotFound`] after the exit, [`Error::FailedPrecondition`] before the
    /// process exists.
    pub(crate) fn signal(&self, reaper: &Reaper, signal: u32) -> Result<()> {
        let running = self.running();
        match (running.pid, running.reaped) {
            (_, true) => Err(Error::NotFound("process already finished".into())),
            (None, _) => Err(Error::FailedPrecondition("process not created".into())),
            // A process that was reaped a moment ago, before `set_reaped`, is unknown
            // to the reaper.
            (Some(pid), _) => send_signal(reaper, pid, signal),
        }
    }

    /// Delivers the remaining output and releases the streams.
    pub(crate) async fn finish_io(&self) {
        let io = self.running().io.take();
        if let Some(io) = io {
            io.finish().await;
        }
    }

    /// Runs `command`, by which the OCI runtime creates the process, and connects the
    /// streams. The ID `target` is appended as the last argument.
    ///
    /// # Errors
    /// The runtime's error, prefixed by `what`; streams that can't be created.
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
            let console = ConsoleSocket::listen(bundle).await?;
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

/// Sends a signal to a child of the shim.
///
/// # Errors
/// [`Error::NotFound`] when the child has been reaped.
pub(crate) fn send_signal(reaper: &Reaper, pid: Pid, signal: u32) -> Result<()> {
    match reaper.signal(pid, signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) => Err(Error::NotFound("process already finished".into())),
        Err(e) => Err(Error::Runtime(format!(
            "signal {signal} to process {pid}: {e}"
        ))),
    }
}

/// A PID for an answer or event; 0 if there is no process.
pub(crate) fn pid_number(pid: Option<Pid>) -> u32 {
    pid.map_or(0, |pid| pid.as_raw().cast_unsigned())
}

/// The exit time for an answer; empty while the process runs.
pub(crate) fn timestamp(ended: Option<Ended>) -> MessageField<Timestamp> {
    ended.map(|e| e.timestamp()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_exit_counts_and_wakes_all_waiters() {
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
