//! Kill: sends a signal to init, to an exec process, or to all processes.
//!
//! Kill never waits for another operation. A signal to the init of a container with
//! its own PID namespace is one system call. The OCI runtime sends the signals that
//! need the cgroup: a signal to all processes, and any signal to a paused container.
//! Under cgroup v1 even SIGKILL takes effect only after the thaw.

use nix::libc::SIGKILL;

use super::state::State;
use super::{Container, Target, is_unknown_container, lock};
use crate::error::{Error, Result};

/// The exit status after SIGKILL.
const KILLED: i32 = 128 + SIGKILL;

impl Container {
    /// Sends `signal` to a process, or to all processes of the container.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the process has exited.
    pub(crate) async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()> {
        if let Target::Exec(id) = target {
            return self.exec(id)?.process.signal(&self.host.reaper, signal);
        }
        // The OCI runtime doesn't know the container yet.
        if lock(&self.holder).is_some() {
            return self.init.signal(&self.host.reaper, signal);
        }
        if self.pid().is_none() {
            return self.kill_unrestored(signal);
        }
        let frozen = matches!(
            self.state(),
            State::Pausing | State::Paused | State::Checkpointing { paused: true }
        );
        if !all && !frozen && self.has_own_pid_namespace {
            return self.init.signal(&self.host.reaper, signal);
        }
        self.kill_by_runtime(signal, all).await
    }

    /// Kills a task that has no process yet. Start may be creating the process now.
    fn kill_unrestored(&self, signal: u32) -> Result<()> {
        if signal != SIGKILL.cast_unsigned() {
            return Err(Error::NotFound(
                "no such container: it has not been restored yet".into(),
            ));
        }
        match self.operation_lock.try_write() {
            Ok(_operation) if self.state() == State::Created => {
                self.stop_unrestored(KILLED);
                Ok(())
            }
            Ok(_) => Err(Error::NotFound("process already finished".into())),
            // Start is in progress, and fails when its OCI runtime is killed.
            Err(_) => self.init.kill_creating_runtime(&self.host.reaper),
        }
    }

    async fn kill_by_runtime(&self, signal: u32, all: bool) -> Result<()> {
        let mut command = self.runtime.command("kill");
        if all {
            command.arg("--all");
        }
        command.arg(&*self.id).arg(signal.to_string());
        self.run(command, "unknown error after kill")
            .await
            .map_err(|e| {
                let text = e.to_string().to_lowercase();
                let finished = [
                    "process already finished",
                    "container not running",
                    "no such process",
                ];
                if finished.iter().any(|known| text.contains(known)) {
                    Error::NotFound("process already finished".into())
                } else if is_unknown_container(&text) {
                    Error::NotFound("no such container".into())
                } else {
                    e
                }
            })
    }
}
