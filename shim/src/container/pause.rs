//! Pause and resume: the OCI runtime freezes and thaws the cgroup.

use containerd_shim::protos::events::task::{TaskPaused, TaskResumed};

use super::{Container, lock};
use crate::{
    error::Result,
    state::{Request, State},
};

impl Container {
    /// Freezes all processes.
    ///
    /// # Errors
    /// The state's or the OCI runtime's refusal; the container then runs.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _gate = self.gate.write().await;
        self.state().admit(Request::Pause)?;
        *lock(&self.state) = State::Pausing;
        let mut command = self.runtime.command("pause");
        command.arg(&self.id);
        let paused = self.run(command, "OCI runtime pause failed").await;
        self.set_state(if paused.is_ok() {
            State::Paused
        } else {
            State::Running
        });
        paused?;
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
        let _gate = self.gate.write().await;
        self.state().admit(Request::Resume)?;
        let mut command = self.runtime.command("resume");
        command.arg(&self.id);
        self.run(command, "OCI runtime resume failed").await?;
        self.set_state(State::Running);
        self.send(TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        });
        Ok(())
    }
}
