//! Whether a paused task may run between two attempts at its checkpoint.
//!
//! `cedana-runc` tries again what passes by itself, such as a connection that the
//! application is about to accept; which it can't while it is paused. containerd's
//! `task.Checkpoint` (`ctr task checkpoint`, Docker, nerdctl, CRI) pauses a task
//! for its checkpoint and reads nothing of it before, so nothing is lost if it runs
//! for a moment and is frozen again. Two pauses must not be touched:
//!
//! - an owner's: the owner may be copying a volume. It is recognized by a State
//!   request after it ([`Container::pause_observed`]);
//! - that around `container.Checkpoint`, which copies the writable layer before it
//!   asks for the task (`client/container.go`). It is recognized by file locks,
//!   which it alone always asks for.

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
