//! Everything that ends a command, worded for the person at the terminal.

use std::io;
use std::path::{Path, PathBuf};

use crate::{bundle, cli, netns, runtime, state};

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
    Images {
        id: String,
        source: cedana_checkpoint::image::Error,
    },
    #[error("cannot restore container {id}: {source}")]
    Netns { id: String, source: netns::Error },
    #[error(
        "cannot checkpoint container {id}: process {pid} ({name}) is {how}, and CRIU would wait for it for ever; {remedy}"
    )]
    Stopped {
        id: String,
        pid: i32,
        name: String,
        how: &'static str,
        remedy: &'static str,
    },
    #[error("cannot {verb} container {id} {} {}: {why}{log}", if *verb == "restore" { "from" } else { "to" }, images.display())]
    Failed {
        verb: &'static str,
        id: String,
        images: Box<Path>,
        why: Box<str>,
        log: LogNote,
    },
    #[error("cannot {verb} container {id}: cannot prepare the image directory {}: {source}", dir.display())]
    ImageDir {
        verb: &'static str,
        id: String,
        dir: PathBuf,
        source: io::Error,
    },
    #[error(
        "container {id} was restored but its init process {pid} ended at once ({how}); the checkpoint may hold a state that cannot go on"
    )]
    Died { id: String, pid: i32, how: String },
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    #[error("cannot prepare CRIU's configuration: {0}")]
    CriuConfig(io::Error),
    #[error("cannot run {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
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
