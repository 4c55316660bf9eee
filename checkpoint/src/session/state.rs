//! The life of a page source: its states, and the events that change them.
//!
//! ```text
//!                 CRIU connects                 RSTF arrives
//!  Restoring ─────────────────► Restoring ─────────────────► Released
//!  criu: None                   criu: Some                      │ RSTF is read
//!     │                            │                            ▼
//!     │ the runtime or the         │ CRIU ends          Running, memory: Missing
//!     │ restore ends               │ without RSTF               │ restored processes
//!     │                            │                            │ have all of it
//!     │                            │                            ▼
//!     │                            │                    Running, memory: Restored
//!     │                            │                            │ nothing is missing,
//!     │                            │                            │ and the container is
//!     │                            ▼                            ▼ known or its restore
//!     └────────────────────────► Over ◄─────────────────────────┘ has ended
//!
//!  any state but Over ── an error, or the source is killed ──► Failed
//!                          Restoring: hang up on CRIU, which fails
//!                          Released, Running: kill the container
//! ```
//!
//! Each change is written to the ledger ([`super::ledger`]) before anything that
//! relies on it happens. After the source's end its watchdog reads the last state
//! there and applies [`Event::Failed`] to it: a source that was killed and one that
//! gave up are dealt with alike.

use std::os::fd::RawFd;

use crate::lazy::Phase;
use serde::{Deserialize, Serialize};

use super::messages::Container;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// CRIU restores the processes, none of which runs: it fails when the
    /// connection to it is shut down.
    Restoring {
        /// The connection to CRIU. `None` until CRIU has connected.
        criu: Option<RawFd>,
        restore: Restore,
    },
    /// RSTF has arrived. From now on CRIU may let the processes run.
    Released { restore: Restore },
    /// The processes run.
    Running {
        /// `None` until the restore has found it.
        container: Option<Container>,
        restore: Restore,
        memory: Memory,
    },
    /// Nothing is missing, or no process was restored. Nothing must be killed.
    Over,
    /// The container must not go on.
    Failed { reason: String, remains: Remains },
}

/// `cedana-runc restore`, as seen by its page source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Restore {
    RuntimeAtWork,
    RuntimeEnded,
    /// It has ended, or has hung up. It sends no more messages.
    Ended,
}

/// The memory of the restored processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Memory {
    Missing,
    /// They have all of it, which is recorded. Children that they forked meanwhile
    /// may lack some.
    Restored,
}

/// The processes to kill after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Remains {
    /// CRIU, by the connection to it.
    Criu(Option<RawFd>),
    /// The container. `None` if the source did not know it.
    Container(Option<Container>),
}

/// An event that changes the state.
#[derive(Debug)]
pub(super) enum Event {
    CriuConnected(RawFd),
    /// RSTF is there to be read.
    RestoreFinished,
    /// CRIU ended without RSTF.
    CriuEnded,
    /// The restore has found the container.
    ContainerFound(Container),
    RuntimeEnded,
    RestoreEnded,
    /// The engine has come to this phase.
    Reached(Phase),
    Failed(String),
}

/// The action of the source after a change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Tell the restore that CRIU lets the processes run.
    ReportRunning,
    /// Record that the restored processes have all of their memory.
    RecordRestored,
    /// End.
    End(End),
}

/// Why a source ends without a failure of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is missing.
    Complete,
    /// The runtime ended, and CRIU has never connected: it restored no lazy memory.
    Unused,
    /// The restore failed before CRIU connected, or was killed.
    Abandoned,
    CriuEnded,
}

impl State {
    /// The state of a source that starts.
    pub(super) const START: Self = Self::Restoring {
        criu: None,
        restore: Restore::RuntimeAtWork,
    };

    /// The state after an event, and what the source does then. An event that a
    /// state does not expect changes nothing.
    pub(super) fn after(self, event: Event) -> (Self, Option<Effect>) {
        use Effect::{End as Ends, RecordRestored, ReportRunning};
        match (self, event) {
            (Self::Over, _) => (Self::Over, None),
            (failed @ Self::Failed { .. }, _) => (failed, None),
            (state, Event::Failed(reason)) => (state.failed(reason), None),
            (state, Event::RuntimeEnded) => (state.with(Restore::RuntimeEnded), None),
            (state, Event::RestoreEnded) => (state.with(Restore::Ended), None),

            (
                Self::Restoring {
                    criu: None,
                    restore,
                },
                Event::CriuConnected(criu),
            ) => {
                let criu = Some(criu);
                (Self::Restoring { criu, restore }, None)
            }
            (Self::Restoring { restore, .. }, Event::RestoreFinished) => {
                (Self::Released { restore }, None)
            }
            (Self::Restoring { .. }, Event::CriuEnded) => (Self::Over, Some(Ends(End::CriuEnded))),
            (
                Self::Restoring {
                    criu: None,
                    restore: Restore::RuntimeEnded,
                },
                Event::Reached(Phase::Restoring),
            ) => (Self::Over, Some(Ends(End::Unused))),
            (
                Self::Restoring {
                    criu: None,
                    restore: Restore::Ended,
                },
                Event::Reached(Phase::Restoring),
            ) => (Self::Over, Some(Ends(End::Abandoned))),
            (
                Self::Restoring { restore, .. } | Self::Released { restore },
                Event::Reached(Phase::Running | Phase::Restored | Phase::Complete),
            ) => {
                let state = Self::Running {
                    container: None,
                    restore,
                    memory: Memory::Missing,
                };
                (state, Some(ReportRunning))
            }

            (
                Self::Running {
                    container: None,
                    restore,
                    memory,
                },
                Event::ContainerFound(container),
            ) => {
                let state = Self::Running {
                    container: Some(container),
                    restore,
                    memory,
                };
                (state, None)
            }
            (
                Self::Running {
                    container,
                    restore,
                    memory: Memory::Missing,
                },
                Event::Reached(Phase::Restored | Phase::Complete),
            ) => {
                let state = Self::Running {
                    container,
                    restore,
                    memory: Memory::Restored,
                };
                (state, Some(RecordRestored))
            }
            // Before that the restore would take the source's end for a failure.
            (
                Self::Running {
                    container: Some(_), ..
                }
                | Self::Running {
                    restore: Restore::Ended,
                    ..
                },
                Event::Reached(Phase::Complete),
            ) => (Self::Over, Some(Ends(End::Complete))),
            (state, _) => (state, None),
        }
    }

    fn failed(self, reason: String) -> Self {
        let remains = match self {
            Self::Restoring { criu, .. } => Remains::Criu(criu),
            Self::Released { .. } => Remains::Container(None),
            Self::Running { container, .. } => Remains::Container(container),
            Self::Over | Self::Failed { .. } => return self,
        };
        Self::Failed { reason, remains }
    }

    fn with(mut self, now: Restore) -> Self {
        match &mut self {
            Self::Restoring { restore, .. }
            | Self::Released { restore }
            | Self::Running { restore, .. } => *restore = now,
            Self::Over | Self::Failed { .. } => {}
        }
        self
    }

    /// Whether the restore may still send messages.
    pub(super) fn hears_restore(&self) -> bool {
        match self {
            Self::Restoring { restore, .. }
            | Self::Released { restore }
            | Self::Running { restore, .. } => *restore != Restore::Ended,
            Self::Over | Self::Failed { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::pid;

    fn container() -> Container {
        Container {
            init: pid(5),
            started: Some(6),
            cgroup: None,
            members: Vec::new(),
            pidfd: Some(9),
        }
    }

    /// The state after these events, and all effects on the way.
    fn run(events: Vec<Event>) -> (State, Vec<Effect>) {
        let mut state = State::START;
        let mut effects = Vec::new();
        for event in events {
            let (next, effect) = state.after(event);
            state = next;
            effects.extend(effect);
        }
        (state, effects)
    }

    fn to_running() -> Vec<Event> {
        vec![
            Event::CriuConnected(7),
            Event::Reached(Phase::Restoring),
            Event::RestoreFinished,
            Event::Reached(Phase::Running),
        ]
    }

    fn failure(mut events: Vec<Event>) -> State {
        events.push(Event::Failed("why".to_owned()));
        run(events).0
    }

    fn failed(remains: Remains) -> State {
        State::Failed {
            reason: "why".to_owned(),
            remains,
        }
    }

    #[test]
    fn a_restore_runs_to_its_end() {
        let mut events = to_running();
        events.extend([
            Event::ContainerFound(container()),
            Event::RuntimeEnded,
            Event::RestoreEnded,
            Event::Reached(Phase::Restored),
            Event::Reached(Phase::Restored),
            Event::Reached(Phase::Complete),
        ]);
        let effects = [
            Effect::ReportRunning,
            Effect::RecordRestored,
            Effect::End(End::Complete),
        ];
        assert_eq!(run(events), (State::Over, effects.to_vec()));
    }

    #[test]
    fn complete_memory_waits_for_the_container_or_the_end_of_its_restore() {
        for last in [Event::ContainerFound(container()), Event::RestoreEnded] {
            let mut events = to_running();
            events.extend([Event::RuntimeEnded, Event::Reached(Phase::Complete)]);
            events.push(Event::Reached(Phase::Complete));
            let (state, effects) = run(events);
            assert_eq!(effects, [Effect::ReportRunning, Effect::RecordRestored]);
            assert_eq!(state.clone().after(Event::Reached(Phase::Complete)).1, None);
            let (state, _) = state.after(last);
            let end = state.after(Event::Reached(Phase::Complete));
            assert_eq!(end, (State::Over, Some(Effect::End(End::Complete))));
        }
    }

    #[test]
    fn a_source_without_criu_ends_with_the_runtime_or_the_restore() {
        let reached = || Event::Reached(Phase::Restoring);
        let unused = run(vec![reached(), Event::RuntimeEnded, reached()]);
        assert_eq!(unused, (State::Over, vec![Effect::End(End::Unused)]));
        let abandoned = run(vec![reached(), Event::RestoreEnded, reached()]);
        assert_eq!(abandoned, (State::Over, vec![Effect::End(End::Abandoned)]));
        // CRIU connected in time: it ends, or finishes, on its own.
        for last in [Event::RuntimeEnded, Event::RestoreEnded] {
            let (state, effects) = run(vec![last, Event::CriuConnected(7), reached()]);
            assert!(matches!(state, State::Restoring { criu: Some(7), .. }));
            assert!(effects.is_empty());
            let ended = state.after(Event::CriuEnded);
            assert_eq!(ended, (State::Over, Some(Effect::End(End::CriuEnded))));
        }
    }

    #[test]
    fn a_failure_says_what_remains_to_be_ended() {
        assert_eq!(failure(Vec::new()), failed(Remains::Criu(None)));
        let mut events = to_running();
        events.truncate(2);
        assert_eq!(failure(events), failed(Remains::Criu(Some(7))));
        // The processes may run as soon as RSTF is there, read or not.
        let mut events = to_running();
        events.truncate(3);
        assert_eq!(failure(events), failed(Remains::Container(None)));
        assert_eq!(failure(to_running()), failed(Remains::Container(None)));
        let mut events = to_running();
        events.push(Event::ContainerFound(container()));
        let known = failed(Remains::Container(Some(container())));
        assert_eq!(failure(events), known);
        // The first reason stays.
        let again = known.clone().after(Event::Failed("killed".to_owned()));
        assert_eq!(again, (known, None));
    }

    #[test]
    fn a_source_that_is_over_does_not_fail() {
        let over = State::Over.after(Event::Failed("killed".to_owned()));
        assert_eq!(over, (State::Over, None));
    }

    #[test]
    fn rstf_in_parts_is_noticed_when_it_has_been_read() {
        let events = vec![Event::CriuConnected(7), Event::Reached(Phase::Running)];
        let (state, effects) = run(events);
        assert!(matches!(state, State::Running { .. }));
        assert_eq!(effects, [Effect::ReportRunning]);
    }
}
