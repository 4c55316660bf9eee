//! Everything that ends a command, worded for the person at the terminal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cedana_checkpoint::capture;
use cedana_checkpoint::format::publish;

use crate::{bundle, cli, netns, runtime, shown, state, unpack};

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
    Bundle { id: String, source: bundle::Error },
    #[error("cannot restore container {id}: {source}")]
    Shown { id: String, source: shown::Error },
    #[error("cannot restore container {id}: --{flag} needs a checkpoint as CRIU wrote it; make it one with `cedana-runc unpack {}`", dir.display())]
    StockOnly {
        id: String,
        flag: &'static str,
        dir: PathBuf,
    },
    #[error("cannot unpack {}: {source}", dir.display())]
    Unpack { dir: PathBuf, source: unpack::Error },
    #[error("cannot restore container {id}: {source}")]
    Netns { id: String, source: netns::Error },
    #[error(
        "cannot checkpoint container {id} and end it: Docker {version} can't start it again from a checkpoint with a runtime given by \"path\"; give the runtime by \"runtimeType\": \"io.containerd.cedana.v2\" in daemon.json, or use --leave-running"
    )]
    NoWayBack { id: String, version: u32 },
    #[error(
        "cannot checkpoint container {id} and end it, because the checkpoint could never be restored: {doubt}; or let the container run on (--leave-running), or set checkpoint.doubtful to \"warn\""
    )]
    Doubtful {
        id: String,
        doubt: crate::doubtful::Doubt,
    },
    #[error("cannot restore container {id}: {source}")]
    Connections {
        id: String,
        source: crate::restore::tcp::Error,
    },
    #[error("cannot hold a network namespace: {0}")]
    HoldNetns(#[from] netns::Error),
    #[error(
        "cannot checkpoint container {id}: {found}{}", shown_wait(*.waited)
    )]
    Obstacle {
        id: String,
        found: crate::obstacle::Found,
        /// How long it was waited for.
        waited: Duration,
    },
    #[error(
        "cannot checkpoint container {id}: process {pid} ({name}) can open at most one more file, and CRIU, which needs to open some in it, would end it; raise its limit of open files (RLIMIT_NOFILE), or close some"
    )]
    NoDescriptor { id: String, pid: i32, name: String },
    #[error("cannot {verb} container {id} {} {}: {why}{log}", if *verb == "restore" { "from" } else { "to" }, images.display())]
    Failed {
        verb: &'static str,
        id: String,
        images: Box<Path>,
        why: Box<str>,
        log: LogNote,
    },
    #[error("cannot {verb} container {id}: {source}{}", if source.is_full() { FULL } else { "" })]
    Store {
        verb: &'static str,
        id: String,
        source: store::Error,
    },
    #[error("cannot checkpoint container {id}: {source}{}", if source.is_full() { FULL } else { "" })]
    Follow { id: String, source: follow::Error },
    #[error("cannot checkpoint container {id}: cannot tell what machine this is: {source}")]
    Machine { id: String, source: io::Error },
    #[error("container {id} has ended for its checkpoint, which cannot be finished: {source}; what there is of it is in {}", left.display())]
    Unfinished {
        id: String,
        source: Box<Error>,
        left: PathBuf,
    },
    #[error(
        "container {id} was restored but its init process {pid} ended at once ({how}); the checkpoint may hold a state that cannot go on"
    )]
    Died { id: String, pid: i32, how: String },
    #[error("cannot inspect: {0}")]
    Inspect(cedana_checkpoint::images::Error),
    #[error("cannot checkpoint container {id}: {source}")]
    Incomplete {
        id: String,
        source: crate::lazy::Incomplete,
    },
    #[error("cannot checkpoint container {id}: interrupted before it began")]
    Interrupted { id: String },
    #[error("cannot read the records of restores: {0}")]
    Restores(io::Error),
    #[error("--progress-fd {fd} is not open for us to write to: {source}")]
    ProgressFd { fd: i32, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot pass the container's terminal on to the caller: {0}")]
    Console(io::Error),
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot prepare CRIU's configuration: {0}")]
    CriuConfig(io::Error),
    #[error("cannot run {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

fn shown_wait(time: Duration) -> String {
    match time {
        Duration::ZERO => String::new(),
        time => format!(" (waited {:.1} s for it to pass)", time.as_secs_f64()),
    }
}

/// Where CRIU's log is, as the end of a sentence.
#[derive(Debug)]
pub(crate) enum LogNote {
    Kept(PathBuf),
    NotKept { path: PathBuf, why: String },
    None,
}

impl std::fmt::Display for LogNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept(path) => write!(f, " (CRIU's log: {})", path.display()),
            Self::NotKept { path, why } => {
                write!(
                    f,
                    " (CRIU's log could not be kept in {}: {why})",
                    path.display()
                )
            }
            Self::None => Ok(()),
        }
    }
}
