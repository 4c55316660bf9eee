//! What every attempt at a checkpoint needs.

use std::cell::Cell;

use cedana_checkpoint::criu::{Cause, Version};
use cedana_config::Config;
use std::time::Duration;

use serde_json::Value;

use super::doubt::Doubt;
use super::storage::memory_store;
use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::Failure;
use crate::host::cgroup::Cgroup;
use crate::host::child::Signals;
use crate::oci::runtime::Runtime;
use crate::oci::state::Container;
use crate::output::report::Reporter;
use cedana_contract::pid::Pid;

/// A checkpoint that can be attempted.
pub(super) struct Prepared<'a> {
    pub(super) request: &'a Request,
    pub(super) reporter: &'a Reporter,
    pub(super) signals: &'a Signals,
    pub(super) kind: Dump,
    pub(super) runtime: Runtime,
    /// What the runtime prints for `--version`.
    pub(super) runtime_version: String,
    pub(super) criu: Version,
    pub(super) container: Container,
    /// The container's config.json, if it can be read.
    pub(super) spec: Option<Value>,
    /// The node's settings and the container's annotations.
    pub(super) config: Config,
    pub(super) cgroup: Option<Cgroup>,
    /// How long the container, paused by its client, waited for containerd.
    pub(super) paused: Duration,
    /// Whether the store has failed, so that the checkpoint holds the memory itself.
    pub(super) without_store: Cell<bool>,
}

/// What kind of dump is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dump {
    /// All of the container's memory is written into the image directory, so the
    /// directory is a checkpoint by itself.
    pub(super) whole: bool,
    /// The images are used while CRIU is still running.
    pub(super) lazy: bool,
    /// The container ends with the dump.
    pub(super) ends: bool,
    /// The dump can be repeated: no other program reads its images meanwhile.
    pub(super) repeatable: bool,
}

impl Dump {
    pub(super) fn of(request: &Request) -> Self {
        let lazy = request.has("lazy-pages");
        let pre_dump = request.has("pre-dump");
        let paged_elsewhere = request.value("page-server").is_some();
        Self {
            whole: !lazy && !pre_dump && !paged_elsewhere,
            lazy,
            ends: !pre_dump && !lazy && !request.has("leave-running"),
            repeatable: !lazy && !paged_elsewhere,
        }
    }
}

impl Prepared<'_> {
    /// Processes in the container's cgroup now.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let cgroup = self.cgroup.as_ref();
        cgroup.map(Cgroup::processes).unwrap_or_default()
    }

    /// The refusal of a checkpoint that could never be restored.
    pub(super) fn refused(&self, doubt: Doubt) -> Error {
        Error::Doubtful {
            id: self.request.id.clone(),
            doubt,
        }
    }

    /// The container ended while an attempt was made, which then failed.
    pub(super) fn ended(&self) -> Error {
        let failure = Failure::without_log(Cause::Ended.to_string());
        Error::failed(self.request, failure)
    }

    /// Whether another attempt may succeed without the store, which failed. Says so.
    pub(super) fn may_succeed_without_store(&self, error: &Error) -> bool {
        let may = self.kind.repeatable
            && !self.without_store.get()
            && !self.signals.is_pending()
            && matches!(error, Error::Follow { source, .. } if memory_store::may_be_inline(self, source));
        self.without_store.set(self.without_store.get() || may);
        may
    }

    /// The caller ended the command.
    pub(super) fn cancelled(&self) -> Error {
        Error::Cancelled {
            id: self.request.id.clone(),
        }
    }

    /// The caller ended the command before the checkpoint began.
    pub(super) fn interrupted(&self) -> Error {
        Error::Interrupted {
            verb: self.request.verb,
            id: self.request.id.clone(),
        }
    }
}
