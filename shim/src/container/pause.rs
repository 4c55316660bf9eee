//! Pause and resume: the OCI runtime freezes and thaws the cgroup.
//!
//! A checkpoint may resume the task before the client that paused it does
//! ([`super::early_resume`]). The client's own resume then succeeds without effect.

use std::sync::atomic::Ordering::Relaxed;

use containerd_shim::protos::events::task::{TaskPaused, TaskResumed};

use super::state::{Request, State};
use super::{Container, lock};
use crate::error::{Error, Result};

/// The error of runc ("container not paused") and crun ("the container is not
/// paused") for a container that is running.
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
            container_id: self.id.to_string(),
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

    /// Resumes the task during its checkpoint, when only storing remains. If the
    /// resume fails, the task stays paused until the client resumes it.
    pub(super) async fn resume_early(&self) {
        match self.thaw(State::Checkpointing { paused: false }).await {
            Ok(()) => self.resumed_early.store(true, Relaxed),
            Err(e) => log::warn!(
                "container {} stays paused until its checkpoint is stored: {e}",
                self.id
            ),
        }
    }

    /// Whether a client has requested the state since the pause, and may rely on the
    /// pause.
    pub(super) fn pause_observed(&self) -> bool {
        self.pause_observed.load(Relaxed)
    }

    async fn thaw(&self, next: State) -> Result<()> {
        let mut command = self.runtime.command("resume");
        command.arg(&self.id);
        match self.run(command, "OCI runtime resume failed").await {
            // The wrapper lets a paused task run between two attempts at a checkpoint
            // ([`super::between_attempts`]). If the wrapper is killed there, the task
            // is already running.
            Err(Error::Runtime(why)) if why.contains(NOT_PAUSED) => {}
            resumed => resumed?,
        }
        self.set_state(next);
        self.send(TaskResumed {
            container_id: self.id.to_string(),
            ..TaskResumed::default()
        });
        Ok(())
    }
}
