//! Kill: a signal to init, to an exec'd process, or to everything.
//!
//! It never waits for another operation. The plain case, one signal to the init
//! of a container with its own PID namespace, is one system call. What needs
//! the cgroup goes to the OCI runtime: all processes, and any signal to a
//! paused container, since under cgroup v1 a frozen process doesn't even die of
//! SIGKILL until it is thawed.

use nix::libc::SIGKILL;

use super::state::State;
use super::{Container, is_unknown_container, lock};
use crate::error::{Error, Result};

/// The exit status of what was killed.
const KILLED: i32 = 128 + SIGKILL;

impl Container {
    /// Sends `signal` to a process, or to all of the container's.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is nothing to signal any more.
    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        if !exec_id.is_empty() {
            return self.exec(exec_id)?.process.signal(signal);
        }
        // The OCI runtime doesn't know the container yet.
        if lock(&self.holder).is_some() {
            return self.init.signal(signal);
        }
        if self.pid() == 0 {
            return self.kill_unrestored(signal);
        }
        let frozen = matches!(
            self.state(),
            State::Pausing | State::Paused | State::Checkpointing { paused: true }
        );
        if !all && !frozen && self.has_own_pid_namespace {
            return self.init.signal(signal);
        }
        self.kill_by_runtime(signal, all).await
    }

    /// A task that has no process yet, and perhaps is getting one just now.
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
            // Start is at work: with its runtime it fails.
            Err(_) => self.init.kill_creating_runtime(),
        }
    }

    async fn kill_by_runtime(&self, signal: u32, all: bool) -> Result<()> {
        let mut command = self.runtime.command("kill");
        if all {
            command.arg("--all");
        }
        command.arg(&self.id).arg(signal.to_string());
        self.run(command, "unknown error after kill")
            .await
            .map_err(|e| {
                let text = e.to_string().to_lowercase();
                let finished = [
                    "process already finished",
                    "container not running",
                    "no such process",
                ];
                if finished.iter().any(|said| text.contains(said)) {
                    Error::NotFound("process already finished".into())
                } else if is_unknown_container(&text) {
                    Error::NotFound("no such container".into())
                } else {
                    e
                }
            })
    }
}
