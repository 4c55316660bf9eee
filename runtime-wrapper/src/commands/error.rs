//! Everything that ends a command, worded for the person at the terminal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cedana_checkpoint::capture;
use cedana_checkpoint::format::{self, publish, unpack};

use super::checkpoint::doubt::Doubt;
use super::checkpoint::unseizable::Unseizable;
use crate::cli::{self, ContainerId, Request};
use crate::criu::{Failure, LogNote, config_annotation};
use crate::network::{netns, tcp};
use crate::oci::{bundle, runtime, state};
use crate::output::progress::BadDescriptor;
use cedana_contract::pid::Pid;

/// What to do about a full disk.
const FULL: &str = "; make room or choose another directory";

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    CommandLine(#[from] cli::Error),
    #[error("settings: {0}")]
    Config(#[from] cedana_config::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Criu(#[from] cedana_checkpoint::criu::version::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("cannot restore container {id}: {source}")]
    Bundle {
        id: ContainerId,
        source: bundle::Error,
    },
    #[error("cannot restore container {id}: {source}")]
    ImagesView {
        id: ContainerId,
        source: cedana_checkpoint::view::Error,
    },
    #[error("cannot restore container {id}: --{flag} needs a checkpoint as CRIU wrote it; make it one with `cedana-runc unpack {}`", dir.display())]
    StockOnly {
        id: ContainerId,
        flag: &'static str,
        dir: PathBuf,
    },
    #[error("cannot unpack {}: {source}", dir.display())]
    Unpack { dir: PathBuf, source: Unpack },
    #[error("cannot restore container {id}: {source}")]
    Netns {
        id: ContainerId,
        source: netns::Error,
    },
    #[error(
        "cannot checkpoint container {id} and end it: Docker {version} can't start it again from a checkpoint with a runtime given by \"path\"; give the runtime by \"runtimeType\": \"io.containerd.cedana.v2\" in daemon.json, or use --leave-running"
    )]
    NoWayBack { id: ContainerId, version: u32 },
    #[error(
        "cannot checkpoint container {id} and end it, because the checkpoint could never be restored: {doubt}; or let the container run on (--leave-running), or set checkpoint.doubtful to \"warn\""
    )]
    Doubtful { id: ContainerId, doubt: Doubt },
    #[error(
        "cannot restore container {id}: its checkpoint gives it more than config.json does: {}; restore a checkpoint of this configuration, or, if you trust this one, set restore.check to \"warn\"", found.join("; ")
    )]
    Precheck { id: ContainerId, found: Vec<String> },
    #[error("cannot restore container {id}: {source}")]
    Connections { id: ContainerId, source: tcp::Error },
    #[error("cannot hold a network namespace: {0}")]
    HoldNetns(#[from] netns::Error),
    #[error(
        "cannot checkpoint container {id}: {found}{}", shown_wait(*.waited)
    )]
    Obstacle {
        id: ContainerId,
        found: Unseizable,
        /// How long it was waited for.
        waited: Duration,
    },
    #[error(
        "cannot checkpoint container {id}: process {pid} ({name}) can open at most one more file, and CRIU, which needs to open some in it, would end it; raise its limit of open files (RLIMIT_NOFILE), or close some"
    )]
    NoDescriptor {
        id: ContainerId,
        pid: Pid,
        name: String,
    },
    #[error("cannot {verb} container {id} {} {}: {why}{log}", if *verb == "restore" { "from" } else { "to" }, images.display())]
    Failed {
        verb: &'static str,
        id: ContainerId,
        images: Box<Path>,
        why: Box<str>,
        log: LogNote,
    },
    #[error("cannot {verb} container {id}: {source}{}", if source.is_full() { FULL } else { "" })]
    Store {
        verb: &'static str,
        id: ContainerId,
        source: publish::Error,
    },
    #[error("cannot checkpoint container {id} to {}: {source}{}", dir.display(), if publish::is_full(source) { FULL } else { "" })]
    Archive {
        id: ContainerId,
        dir: PathBuf,
        source: io::Error,
    },
    #[error(
        "cannot checkpoint container {id} to an archive and end it: that needs CRIU 3.19 or later; update CRIU, or use --leave-running"
    )]
    NoArchive { id: ContainerId },
    #[error(
        "cannot checkpoint container {id}: {source}; or set checkpoint.store to \"inline\", so that the checkpoint holds the memory itself"
    )]
    MemoryStore {
        id: ContainerId,
        source: cedana_store::Error,
    },
    #[error("cannot checkpoint container {id}: cancelled; it runs on, and nothing was written")]
    Cancelled { id: ContainerId },
    #[error("cannot checkpoint container {id}: {source}{}", if source.is_full() { FULL } else { "" })]
    Follow {
        id: ContainerId,
        source: capture::Error,
    },
    #[error("cannot checkpoint container {id}: cannot tell what machine this is: {source}")]
    Machine { id: ContainerId, source: io::Error },
    #[error("container {id} was stopped, but its checkpoint could not be completed: {source}; the partial checkpoint is in {}", left.display())]
    Unfinished {
        id: ContainerId,
        source: Box<Error>,
        left: PathBuf,
    },
    #[error(
        "container {id} was restored but its init process {pid} ended at once ({how}); the checkpoint may hold a state that cannot go on"
    )]
    Died {
        id: ContainerId,
        pid: Pid,
        how: String,
    },
    #[error("cannot inspect: {0}")]
    Inspect(format::Error),
    #[error("cannot checkpoint container {id}: {source}")]
    Incomplete {
        id: ContainerId,
        source: cedana_checkpoint::session::Incomplete,
    },
    #[error("cannot {verb} container {id}: interrupted before it began")]
    Interrupted { verb: &'static str, id: ContainerId },
    #[error("cannot read the records of restores: {0}")]
    Restores(io::Error),
    #[error(transparent)]
    Progress(#[from] BadDescriptor),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot pass the container's terminal on to the caller: {0}")]
    Console(io::Error),
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot {verb} container {id}: {source}")]
    ConfigAnnotation {
        verb: &'static str,
        id: ContainerId,
        source: config_annotation::Error,
    },
    #[error("cannot prepare CRIU's configuration: {0}")]
    CriuConfig(io::Error),
    #[error("cannot run {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

impl Error {
    /// A checkpoint or restore with a file of CRIU that the node does not allow.
    pub(crate) fn config_annotation(request: &Request, source: config_annotation::Error) -> Self {
        Self::ConfigAnnotation {
            verb: request.verb,
            id: request.id.clone(),
            source,
        }
    }

    /// A checkpoint or restore that the runtime or CRIU could not do.
    pub(crate) fn failed(request: &Request, failure: Failure) -> Self {
        Self::Failed {
            verb: request.verb,
            id: request.id.clone(),
            images: (*request.images).into(),
            why: failure.why,
            log: failure.log,
        }
    }
}

/// Why a checkpoint can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unpack {
    #[error("it has no manifest, so it is a stock checkpoint already, or none")]
    NotOurs,
    #[error("it is an archive; name a directory for its files with --to")]
    Archive,
    #[error(transparent)]
    Images(#[from] format::Error),
    #[error(transparent)]
    Config(#[from] cedana_config::Error),
    #[error(transparent)]
    Store(#[from] publish::Error),
    #[error(transparent)]
    Write(#[from] unpack::Error),
}

fn shown_wait(time: Duration) -> String {
    match time {
        Duration::ZERO => String::new(),
        time => format!(" (waited {:.1} s for it to pass)", time.as_secs_f64()),
    }
}
