//! The netns holder: a process that keeps a network namespace open between Create and
//! Start of a restore. Start restores the container into that namespace.
//!
//! Docker (since 28) creates the task, sets up the network through /proc/PID/ns/net
//! of the PID that Create returned, and then starts the task. A task that is created
//! from a checkpoint has no process yet. So the shim runs
//! `cedana-runc --cedana-hold-netns`, which creates the namespace, brings loopback
//! up, keeps the checkpoint's connections and their peers apart, and waits for EOF on
//! its stdin.
//!
//! ```text
//! Create ─▶ holder ─▶ answer its PID ─▶ (engine: interfaces, addresses, routes)
//! Start  ─▶ restore into /proc/HOLDER/ns/net ─▶ answer init's PID ─▶ holder exits
//! ```
//!
//! Until Start the holder is the task's process: a signal that kills the holder stops
//! the task, and Delete ends the holder. If the shim exits, the kernel closes the
//! holder's stdin and kills the holder. After a restore the container itself keeps
//! the namespace open.

use std::{os::fd::OwnedFd, path::Path, process::Command, sync::Arc, time::Duration};

use cedana_contract::{flags, process::die_with_parent};
use nix::libc::SIGKILL;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::state::State;
use super::{Container, lock};
use crate::procfs;
use crate::{
    error::{Context, Error, Result},
    reaper::{Exit, ExitStatus, Reaper},
    runtime::wrapper_path,
    stderr,
    stdio::new_pipe,
};
use cedana_contract::pid::Pid;
use std::path::PathBuf;

/// The time limit for a holder's start, the same as for a runtime's terminal. A holder
/// takes milliseconds; it waits longer if another program has locked iptables.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running holder, which exits when this value is dropped.
pub(super) struct NetnsHolder {
    pid: Pid,
    /// The write end of the holder's stdin. The holder exits on EOF.
    stdin: Option<OwnedFd>,
}

impl NetnsHolder {
    /// Starts a holder and waits until the namespace exists.
    async fn start(reaper: &Reaper, checkpoint: &Path) -> Result<(Self, Exit)> {
        Self::start_within(START_TIMEOUT, &wrapper_path(), reaper, checkpoint).await
    }

    async fn start_within(
        limit: Duration,
        program: &Path,
        reaper: &Reaper,
        checkpoint: &Path,
    ) -> Result<(Self, Exit)> {
        let failed = |why: String| {
            Error::Runtime(format!(
                "hold a network namespace: {}: {why}",
                program.display()
            ))
        };
        let mut command = Command::new(program);
        command.arg(flags::HOLD_NETNS).arg(checkpoint);
        let stderr = stderr::capture(&mut command)?;
        let (theirs, stdin) = new_pipe()?;
        command.stdin(theirs);
        let (ours, theirs) = new_pipe()?;
        command.stdout(theirs);
        die_with_parent(&mut command);
        let spawned = reaper.spawn(&mut command);
        // Closes the shim's copies of the holder's pipe ends.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| failed(e.to_string()))?;
        let mut ready = pipe::Receiver::from_owned_fd(ours).context(|| "holder's pipe")?;
        // EOF means that the holder has exited.
        match tokio::time::timeout(limit, ready.read_u8()).await {
            Ok(Ok(_)) => Ok((
                Self {
                    pid,
                    stdin: Some(stdin),
                },
                exit,
            )),
            Ok(Err(_)) => Err(failed(
                stderr::text(stderr).unwrap_or_else(|| "exited without a message".into()),
            )),
            Err(_) => {
                let _ = reaper.signal(pid, SIGKILL.cast_unsigned());
                Err(failed(format!("not ready within {limit:?}, and killed")))
            }
        }
    }

    /// The path of the namespace that the holder keeps open.
    pub(super) fn network_namespace(&self) -> PathBuf {
        procfs::of(self.pid).join("ns/net")
    }
}

impl Container {
    /// Starts a holder that stands in for init.
    ///
    /// # Errors
    /// The namespace can't be created.
    pub(super) async fn hold_network_namespace(self: &Arc<Self>, checkpoint: &Path) -> Result<()> {
        let (holder, exit) = NetnsHolder::start(&self.host.reaper, checkpoint).await?;
        self.init.set_pid(holder.pid);
        *lock(&self.holder) = Some(holder);
        let container = self.clone();
        tokio::spawn(async move {
            let Ok(status) = exit.await else { return };
            // Start has detached the holder: its exit doesn't stop the task.
            if lock(&container.holder).take().is_none() {
                return;
            }
            container.init.set_reaped();
            container.stop_unrestored(status);
        });
        Ok(())
    }

    /// Stops a task that was never restored. Clients see the exit as that of a
    /// started task.
    pub(super) fn stop_unrestored(&self, status: ExitStatus) {
        // Clients wait for EOF on the fifos.
        lock(&self.held_fifos).clear();
        self.set_state(State::Stopped);
        let ended = self.init.end(status);
        self.send_exit(&self.id, &self.init, ended);
    }

    /// Detaches the holder from the task: its exit no longer stops the task.
    pub(super) fn take_netns_holder(&self) -> Option<NetnsHolder> {
        let holder = lock(&self.holder).take();
        if holder.is_some() {
            self.init.set_pid(None);
        }
        holder
    }

    /// Ends the holder. Its exit stops the task.
    pub(super) fn end_netns_holder(&self) {
        if let Some(holder) = &mut *lock(&self.holder) {
            holder.stdin.take();
        }
    }

    /// Stops the task after a failed restore, so that the client can delete the task.
    /// containerd's client (`task.Delete`) refuses to delete a task in state
    /// "created" that has a PID.
    pub(super) fn stop_after_failed_restore(&self, holder: &NetnsHolder) {
        self.init.set_pid(holder.pid);
        self.init.set_reaped();
        self.set_state(State::Stopped);
        self.init.end(UNKNOWN_EXIT_STATUS);
    }
}

/// The exit status of a task that never ran: `UnknownExitStatus` of containerd's
/// client.
const UNKNOWN_EXIT_STATUS: ExitStatus = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test(flavor = "current_thread")]
    async fn a_holder_that_is_never_ready_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("holder");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let limit = Duration::from_millis(20);
        // Nothing reaps here, so the claim stays and the exit is not collected.
        let reaper = Reaper::default();
        let text = loop {
            let started = NetnsHolder::start_within(limit, &program, &reaper, dir.path()).await;
            let text = started.err().expect("not ready").to_string();
            // ETXTBSY: a child of another test has the new file open until its exec.
            if !text.contains("busy") {
                break text;
            }
        };
        assert!(
            text.contains("holder: not ready within 20ms, and killed"),
            "{text}"
        );
    }
}
