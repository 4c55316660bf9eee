//! What `cedana-runc restore` knows of its page source.
//!
//! ```text
//!               Finished                Served
//!  Restoring ────────────► Running ────────────► Served
//!      │ │                    │                     │
//!      │ │ CriuEnded          │ Failed, or closed   │ Failed
//!      │ └────────► CriuEnded ▼                     │
//!      └─────────────────► Failed ◄─────────────────┘
//! ```

use super::messages::ToRestore;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// CRIU is at work.
    Restoring,
    /// CRIU lets the processes run, or has.
    Running { container_sent: bool },
    /// The source knows the container, or was not needed.
    Served,
    /// CRIU ended before the restore was finished. Its log has the reason.
    CriuEnded,
    /// The container must not go on.
    Failed {
        reason: String,
        may_run: bool,
        container_sent: bool,
    },
}

impl Progress {
    /// Applies a message of the source, or of its watchdog.
    pub(super) fn receive(&mut self, message: ToRestore) {
        match (&*self, message) {
            (Self::Restoring, ToRestore::Finished) => {
                *self = Self::Running {
                    container_sent: false,
                };
            }
            (Self::Restoring | Self::Running { .. }, ToRestore::Served) => *self = Self::Served,
            (Self::Restoring, ToRestore::CriuEnded) => *self = Self::CriuEnded,
            (_, ToRestore::Failed { reason }) => self.fail(&reason),
            _ => {}
        }
    }

    /// Applies the end of the connection: the source has ended, and its watchdog.
    pub(super) fn closed(&mut self) {
        if matches!(self, Self::Restoring | Self::Running { .. }) {
            self.fail("its page source has ended");
        }
    }

    /// Applies a failure. The first reason stays.
    pub(super) fn fail(&mut self, reason: &str) {
        let (may_run, container_sent) = match self {
            Self::Restoring => (false, false),
            Self::Running { container_sent } => (true, *container_sent),
            Self::Served => (true, true),
            Self::CriuEnded | Self::Failed { .. } => return,
        };
        *self = Self::Failed {
            reason: reason.to_owned(),
            may_run,
            container_sent,
        };
    }

    /// Notes that the source, or its watchdog, knows the container.
    pub(super) fn set_container_sent(&mut self) {
        if let Self::Running { container_sent } | Self::Failed { container_sent, .. } = self {
            *container_sent = true;
        }
    }

    /// Whether the source, or its watchdog, needs the container.
    pub(super) fn needs_container(&self) -> bool {
        matches!(
            self,
            Self::Running {
                container_sent: false
            } | Self::Failed {
                container_sent: false,
                ..
            }
        )
    }

    /// Whether CRIU may have let the processes run.
    pub(super) fn may_run(&self) -> bool {
        match self {
            Self::Restoring | Self::CriuEnded => false,
            Self::Running { .. } | Self::Served => true,
            Self::Failed { may_run, .. } => *may_run,
        }
    }

    /// The reason of a failure.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Self::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(messages: &[ToRestore]) -> Progress {
        let mut progress = Progress::Restoring;
        for message in messages {
            progress.receive(message.clone());
        }
        progress
    }

    fn failed() -> ToRestore {
        ToRestore::Failed {
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn a_restore_is_served_once_its_container_was_sent() {
        let mut progress = after(&[ToRestore::Finished]);
        assert!(progress.may_run() && progress.needs_container());
        progress.set_container_sent();
        assert!(!progress.needs_container());
        progress.receive(ToRestore::Served);
        assert_eq!(progress, Progress::Served);
        progress.closed();
        assert_eq!((progress.failure(), progress.may_run()), (None, true));
    }

    #[test]
    fn a_failure_keeps_whether_processes_may_run() {
        let early = after(&[failed()]);
        assert!(!early.may_run() && early.needs_container());
        let late = after(&[ToRestore::Finished, failed()]);
        assert!(late.may_run() && late.needs_container());
        let mut served = after(&[ToRestore::Finished, ToRestore::Served, failed()]);
        assert!(served.may_run() && !served.needs_container());
        served.fail("another reason");
        assert_eq!(served.failure().as_deref(), Some("why"));
    }

    #[test]
    fn an_end_without_a_message_is_a_failure() {
        let mut progress = after(&[]);
        progress.closed();
        let reason = progress.failure();
        assert_eq!(reason.as_deref(), Some("its page source has ended"));
        // CRIU's own reason is the better one.
        let mut criu = after(&[ToRestore::CriuEnded]);
        criu.closed();
        assert_eq!((criu.failure(), criu.may_run()), (None, false));
    }
}
