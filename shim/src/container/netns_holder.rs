//! Between Create and Start of a restore: a process that holds the network
//! namespace which the container is going to be restored into.
//!
//! Docker (since 28) sets a container's network up after it has created the
//! task, through /proc/PID/ns/net of the PID that Create answered, and starts it
//! then. A task that is created from a checkpoint has no process yet, so there
//! is a stand-in: `cedana-runc --cedana-hold-netns`, which makes the namespace,
//! brings loopback up, keeps the checkpoint's connections and their peers apart,
//! and waits for its stdin to end.
//!
//! ```text
//! Create ─▶ holder ─▶ answer its PID ─▶ (engine: interfaces, addresses, routes)
//! Start  ─▶ restore into /proc/HOLDER/ns/net ─▶ answer init's PID ─▶ holder ends
//! ```
//!
//! Until Start it is the task's process: a signal that ends it stops the task,
//! Delete ends it. Nothing outlives us: if the shim dies its stdin ends, and the
//! kernel kills it. By the time it ends after a restore, the container itself
//! holds the namespace.

use std::{os::fd::OwnedFd, path::Path, process::Command, sync::Arc};

use cedana_contract::{flags, process::die_with_parent};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::state::State;
use super::{Container, lock};
use crate::{
    error::{Context, Error, Result},
    reaper::{Exit, ExitStatus, Reaper},
    runtime::{capture_stderr, captured_text, wrapper_path},
    stdio::new_pipe,
};

/// Ends when dropped.
pub(super) struct NetnsHolder {
    pid: i32,
    /// The holder reads it; its end is the sign to go.
    stdin: Option<OwnedFd>,
}

impl NetnsHolder {
    /// Starts one and waits until its namespace is there.
    async fn start(reaper: &Reaper, checkpoint: &Path) -> Result<(Self, Exit)> {
        let program = wrapper_path();
        let failed = |why: String| {
            Error::Runtime(format!(
                "hold a network namespace: {}: {why}",
                program.display()
            ))
        };
        let mut command = Command::new(&program);
        command.arg(flags::HOLD_NETNS).arg(checkpoint);
        let stderr = capture_stderr(&mut command)?;
        let (theirs, stdin) = new_pipe()?;
        command.stdin(theirs);
        let (ours, theirs) = new_pipe()?;
        command.stdout(theirs);
        die_with_parent(&mut command);
        let spawned = reaper.spawn(&mut command);
        // Our copies of its ends of the pipes.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| failed(e.to_string()))?;
        let mut ready = pipe::Receiver::from_owned_fd(ours).context(|| "holder's pipe")?;
        // Closed without a word when it ends.
        match ready.read_u8().await {
            Ok(_) => Ok((
                Self {
                    pid,
                    stdin: Some(stdin),
                },
                exit,
            )),
            Err(_) => Err(failed(
                captured_text(stderr).unwrap_or_else(|| "ended and said nothing".into()),
            )),
        }
    }

    /// The namespace that it holds.
    pub(super) fn network_namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }
}

impl Container {
    /// Lets a holder stand in for init.
    ///
    /// # Errors
    /// The namespace can't be made.
    pub(super) async fn hold_network_namespace(self: &Arc<Self>, checkpoint: &Path) -> Result<()> {
        let (holder, exit) = NetnsHolder::start(&self.host.reaper, checkpoint).await?;
        self.init.set_pid(holder.pid);
        *lock(&self.holder) = Some(holder);
        let container = self.clone();
        tokio::spawn(async move {
            let Ok(status) = exit.await else { return };
            // Start has taken it over, or it has done its part.
            if lock(&container.holder).take().is_none() {
                return;
            }
            container.init.set_reaped();
            container.stop_unrestored(status);
        });
        Ok(())
    }

    /// Ends a task that was to be restored and never was, as if it had run.
    pub(super) fn stop_unrestored(&self, status: ExitStatus) {
        // Their client waits for the end of what it reads before it lets go.
        lock(&self.held_fifos).clear();
        self.set_state(State::Stopped);
        let ended = self.init.end(status);
        self.send_exit(&self.id, &self.init, ended);
    }

    /// Takes the holder over, so that its end no longer is the task's.
    pub(super) fn take_netns_holder(&self) -> Option<NetnsHolder> {
        let holder = lock(&self.holder).take();
        if holder.is_some() {
            self.init.set_pid(0);
        }
        holder
    }

    /// Lets the holder go; its end is that of the task, which never began.
    pub(super) fn end_netns_holder(&self) {
        if let Some(holder) = &mut *lock(&self.holder) {
            holder.stdin.take();
        }
    }

    /// After a restore that failed: the task that the holder stood for is over,
    /// which allows its deletion. A client that knows a PID refuses to delete a
    /// task that is still "created" (containerd's client, `task.Delete`).
    pub(super) fn stop_after_failed_restore(&self, holder: &NetnsHolder) {
        self.init.set_pid(holder.pid);
        self.init.set_reaped();
        self.set_state(State::Stopped);
        self.init.end(UNKNOWN_EXIT_STATUS);
    }
}

/// The exit status of a task that never ran, as containerd calls it unknown
/// (client, `UnknownExitStatus`).
const UNKNOWN_EXIT_STATUS: ExitStatus = 255;
