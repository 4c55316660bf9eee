//! The states of a task, and the requests that each state admits.
//!
//! ```text
//!             start                pause
//!  created ──────────▶ running ◀─────────▶ (pausing) paused
//!     │                  │ ▲     resume        │ ▲
//!     │                  ▼ │                   ▼ │
//!     │              checkpointing        checkpointing
//!     │                  │                     │
//!     └───────▶ stopped ◀┴─────────────────────┘      (init's exit, from anywhere)
//!                  │
//!                  ▼ delete
//!               deleted
//! ```
//!
//! A task leaves *pausing* and *checkpointing* by [`State::set_unless_stopped`],
//! which does nothing if init has exited meanwhile: an exit is never undone. Refusals
//! have the texts of containerd's own shim, which clients show to users.

use containerd_shim::api::Status;

use crate::error::{Error, Result};

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Created and not started. A task that is created from a checkpoint has no
    /// process yet.
    Created,
    /// Init runs.
    Running,
    /// The runtime is freezing the cgroup.
    Pausing,
    /// The cgroup is frozen on a client's request.
    Paused,
    /// `cedana-runc checkpoint` is running. Clients see the state before the
    /// checkpoint.
    Checkpointing {
        /// Whether a client had paused the task before.
        paused: bool,
    },
    /// Init has exited.
    Stopped,
    /// The OCI runtime has deleted the container.
    Deleted,
}

/// A request that depends on the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Pause,
    Resume,
    Checkpoint,
    Update,
    Exec,
    Delete,
}

impl State {
    /// Whether `request` may go ahead now.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] with the reason.
    pub(crate) fn admit(self, request: Request) -> Result<()> {
        use Request::{Checkpoint, Delete, Exec, Pause, Resume, Start, Update};
        use State::{Created, Deleted, Paused, Running, Stopped};
        let refusal = match (request, self.visible()) {
            (Start, Created)
            | (Pause, Running)
            | (Resume, Paused)
            | (Checkpoint, Running | Paused)
            | (Update, Created | Running | Paused)
            | (Exec, Created | Running)
            | (Delete, Created | Stopped) => return Ok(()),
            (Start, Paused) => "cannot start a paused process",
            (Start, Stopped) => "cannot start a stopped process",
            (Start, Deleted) => "cannot start a deleted process",
            (Start, _) => "cannot start a running process",
            (Pause, Created) => "cannot pause task in created state",
            (Pause, Paused) => "cannot pause a paused container",
            (Pause, Stopped) => "cannot pause a stopped container",
            (Pause, _) => "cannot pause a deleted process",
            (Resume, Created) => "cannot resume task in created state",
            (Resume, Running) => "cannot resume a running process",
            (Resume, Stopped) => "cannot resume a stopped container",
            (Resume, _) => "cannot resume a deleted process",
            (Checkpoint, Created) => "cannot checkpoint a task in created state",
            (Checkpoint, Stopped) => "cannot checkpoint a stopped container",
            (Checkpoint, _) => "cannot checkpoint a deleted process",
            (Update, Stopped) => "cannot update a stopped container",
            (Update, _) => "cannot update a deleted process",
            (Exec, Paused) => "cannot exec in a paused state",
            (Exec, Stopped) => "cannot exec in a stopped state",
            (Exec, _) => "cannot exec in a deleted state",
            (Delete, Paused) => "cannot delete a paused process",
            // The second of two concurrent deletions. containerd treats "not found"
            // as success.
            (Delete, Deleted) => {
                return Err(Error::NotFound("cannot delete a deleted process".into()));
            }
            (Delete, _) => "cannot delete a running process",
        };
        Err(Error::FailedPrecondition(refusal.into()))
    }

    /// The state that clients see. Transitional states are mapped to stable ones.
    fn visible(self) -> Self {
        match self {
            State::Pausing | State::Checkpointing { paused: false } => State::Running,
            State::Checkpointing { paused: true } => State::Paused,
            other => other,
        }
    }

    /// Leaves a transitional state for `next`, unless init has exited meanwhile.
    pub(crate) fn set_unless_stopped(&mut self, next: State) {
        if !matches!(self, State::Stopped | State::Deleted) {
            *self = next;
        }
    }

    /// The status in containerd's task API.
    pub(crate) fn status(self) -> Status {
        match self {
            State::Created => Status::CREATED,
            State::Running | State::Checkpointing { paused: false } => Status::RUNNING,
            State::Pausing => Status::PAUSING,
            State::Paused | State::Checkpointing { paused: true } => Status::PAUSED,
            State::Stopped | State::Deleted => Status::STOPPED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 8] = [
        State::Created,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Checkpointing { paused: false },
        State::Checkpointing { paused: true },
        State::Stopped,
        State::Deleted,
    ];

    fn admitted(request: Request) -> Vec<State> {
        ALL.into_iter()
            .filter(|s| s.admit(request).is_ok())
            .collect()
    }

    #[test]
    fn a_task_starts_once() {
        assert_eq!(admitted(Request::Start), [State::Created]);
    }

    #[test]
    fn only_created_and_stopped_tasks_are_deleted() {
        assert_eq!(admitted(Request::Delete), [State::Created, State::Stopped]);
    }

    #[test]
    fn a_stopped_task_is_not_checkpointed() {
        let refusal = State::Stopped.admit(Request::Checkpoint).unwrap_err();
        assert_eq!(refusal.to_string(), "cannot checkpoint a stopped container");
    }

    #[test]
    fn clients_see_the_state_before_the_checkpoint() {
        assert_eq!(
            State::Checkpointing { paused: true }.status(),
            Status::PAUSED
        );
        assert_eq!(
            State::Checkpointing { paused: false }.status(),
            Status::RUNNING
        );
    }

    #[test]
    fn an_exit_is_never_undone() {
        let mut state = State::Stopped;
        state.set_unless_stopped(State::Running);
        assert_eq!(state, State::Stopped);
        let mut state = State::Checkpointing { paused: false };
        state.set_unless_stopped(State::Running);
        assert_eq!(state, State::Running);
    }
}
