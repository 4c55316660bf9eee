//! The messages between `cedana-runc restore` and its page source.
//!
//! ```text
//! restore                              source
//!    ── Startup ───────────────────────►         at once
//!    ◄───────────────────── Finished ───         CRIU lets the processes run
//!    ── Container: pid, cgroup ────────►         what is killed if the source fails
//!    ◄─────────────────────── Served ───         a checkpoint finds the source
//!    ── RuntimeEnded ──────────────────►
//!    ◄─────────────── Failed: reason ───         instead of any of these, or later
//!    ◄──────────────────── CriuEnded ───         CRIU ended without RSTF
//! ```
//!
//! Both ends are one program, so the messages need no version.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::procfs;
use cedana_contract::pid::Pid;

/// The first message: what the source needs to start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Startup {
    /// The container's ID.
    pub(super) id: String,
    /// The path of the checkpoint's directory or archive, for messages.
    pub(super) images: PathBuf,
    /// The directory of the node's store, which may have the memory.
    pub(super) store: PathBuf,
    /// The digest of the manifest's text, which the restore has verified.
    pub(super) fingerprint: String,
    /// The directory that gets the reason of a kill.
    pub(super) report: Option<PathBuf>,
    /// How many threads prefetch.
    pub(super) threads: usize,
    /// The container's `oom_score_adj`.
    pub(super) oom_score_adj: Option<i64>,
    /// The time since `cedana-runc restore` began, in microseconds.
    pub(super) elapsed_us: u64,
    /// The runtime's log, and whether its lines are JSON.
    pub(super) log: Option<PathBuf>,
    pub(super) log_json: bool,
    /// A test's fifo: prefetching waits until it is readable.
    pub(super) gate: Option<PathBuf>,
}

/// From `cedana-runc restore` to the source, after [`Startup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToSource {
    /// The restored container.
    Container(Container),
    /// The runtime has ended.
    RuntimeEnded,
}

/// From the source, or its watchdog, to `cedana-runc restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToRestore {
    /// CRIU lets the processes run.
    Finished,
    /// The restore may report success.
    Served,
    /// CRIU ended before the restore was finished. CRIU's log has the reason.
    CriuEnded,
    /// The container must not go on.
    Failed { reason: String },
}

/// A container or a process tree, which is killed if its memory can't be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The PID of init, or of the tree's root.
    pub(super) init: Pid,
    /// The start time of init, which tells it from a later process with its PID.
    pub(super) started: Option<u64>,
    /// Its cgroup's directory.
    pub(super) cgroup: Option<PathBuf>,
    /// The other processes of a tree that has no cgroup of its own, with their start
    /// times.
    #[serde(default)]
    pub(super) members: Vec<(Pid, u64)>,
    /// A descriptor of init in the table that source and watchdog share. `None`
    /// until the source has opened it.
    #[serde(default)]
    pub(super) pidfd: Option<RawFd>,
}

impl Container {
    /// A container with this init, which lives, and cgroup.
    #[must_use]
    pub fn new(init: Pid, cgroup: Option<PathBuf>) -> Self {
        Self {
            init,
            started: procfs::started(init),
            cgroup,
            members: Vec::new(),
            pidfd: None,
        }
    }

    /// The tree of these processes, whose root is `init`.
    #[must_use]
    pub fn tree(init: Pid, processes: &[Pid]) -> Self {
        let started = |&pid: &Pid| Some((pid, procfs::started(pid)?));
        Self {
            members: processes.iter().filter_map(started).collect(),
            ..Self::new(init, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::pid;

    #[test]
    fn a_message_is_read_as_it_was_sent() {
        let container = ToSource::Container(Container {
            init: pid(5),
            started: Some(7),
            cgroup: Some("/sys/fs/cgroup/c".into()),
            members: Vec::new(),
            pidfd: None,
        });
        for message in [container, ToSource::RuntimeEnded] {
            let text = serde_json::to_string(&message).expect("JSON");
            let read: ToSource = serde_json::from_str(&text).expect("a message");
            assert_eq!(read, message);
        }
        let failed = ToRestore::Failed {
            reason: "why".to_owned(),
        };
        let text = serde_json::to_string(&failed).expect("JSON");
        assert_eq!(text, r#"{"type":"failed","reason":"why"}"#);
        assert_eq!(serde_json::from_str::<ToRestore>(&text).ok(), Some(failed));
    }
}
