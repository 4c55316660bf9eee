//! Pause and resume: the OCI runtime freezes and thaws the cgroup.
//!
//! A task that its checkpointing client paused may be resumed by its checkpoint
//! ([`super::early_resume`]); the client's own resume then finds nothing to do.

use std::sync::atomic::Ordering::Relaxed;

use containerd_shim::protos::events::task::{TaskPaused, TaskResumed};

use super::state::{Request, State};
use super::{Container, lock};
use crate::error::{Error, Result};

/// What runc ("container not paused") and crun ("the container is not paused") say
/// of a container that runs already.
const NOT_PAUSED: &str = "not paused";

impl Container {
    /// Freezes all processes.
    ///
    /// # Errors
    /// The state's or the OCI runtime's refusal; the container then runs.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _operation = self.operation_lock.write().await;
        self.state().admit(Request::Pause)?;
        *lock(&self.state) = State::Pausing;
        let paused = self.freeze().await;
        self.set_state(if paused.is_ok() {
            State::Paused
        } else {
            State::Running
        });
        paused?;
        self.pause_observed.store(false, Relaxed);
        self.resumed_early.store(false, Relaxed);
        self.send(TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        });
        Ok(())
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// The state's or the OCI runtime's refusal; the container stays paused.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _operation = self.operation_lock.write().await;
        if self.resumed_early.swap(false, Relaxed) && self.state() == State::Running {
            return Ok(());
        }
        self.state().admit(Request::Resume)?;
        self.thaw(State::Running).await
    }

    /// Resumes the task while it is being checkpointed, of which only storing
    /// remains. If that fails, the client that paused it is still to come.
    pub(super) async fn resume_early(&self) {
        match self.thaw(State::Checkpointing { paused: false }).await {
            Ok(()) => self.resumed_early.store(true, Relaxed),
            Err(e) => log::warn!(
                "container {}: it stays paused until its checkpoint is stored: {e}",
                self.id
            ),
        }
    }

    /// Whether a client may have seen that the task is paused, and counts on it.
    pub(super) fn pause_observed(&self) -> bool {
        self.pause_observed.load(Relaxed)
    }

    async fn thaw(&self, next: State) -> Result<()> {
        let mut command = self.runtime.command("resume");
        command.arg(&self.id);
        match self.run(command, "OCI runtime resume failed").await {
            // The wrapper lets a paused task run between two attempts at its
            // checkpoint ([`super::attempts`]), and may have been killed then.
            Err(Error::Runtime(why)) if why.contains(NOT_PAUSED) => {}
            resumed => resumed?,
        }
        self.set_state(next);
        self.send(TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        });
        Ok(())
    }
}
