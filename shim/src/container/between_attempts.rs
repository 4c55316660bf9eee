//! Decides whether a paused task may run between two attempts at its checkpoint.
//!
//! `cedana-runc` retries a checkpoint that fails for a transient reason, such as a
//! connection that the application is about to accept. A paused application can't
//! accept it. containerd's `task.Checkpoint` (`ctr task checkpoint`, Docker, nerdctl,
//! CRI) pauses a task for its checkpoint and reads nothing of the task before, so
//! nothing is lost if the task runs for a moment and is frozen again. Two pauses must
//! not be touched:
//!
//! - a pause for another purpose, such as copying a volume. The shim recognizes this
//!   pause by a State request after it ([`Container::pause_observed`]);
//! - a pause around `container.Checkpoint`, which copies the writable layer before
//!   the task (`client/container.go`). The shim recognizes this pause by the file
//!   locks option, which only `container.Checkpoint` always sets.

use super::{Container, state::State};
use crate::options::CheckpointOptions;

impl Container {
    /// Whether this task, which is being checkpointed, may run between attempts.
    pub(super) fn may_run_between_attempts(&self, options: &CheckpointOptions) -> bool {
        self.state() == State::Checkpointing { paused: true }
            && !self.pause_observed()
            && !options.file_locks
    }
}
