//! Why a dump or a restore failed.

use std::io;
use std::path::PathBuf;

use cedana_checkpoint::criu::log_archive::LogNote;
use cedana_checkpoint::{capture, criu, format, session, view};
use cedana_contract::pid::Pid;

use crate::obstacle::Obstacle;

/// The reason that there is no checkpoint, or no process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process can't be dumped as it is. It runs on, untouched.
    #[error("process {pid} cannot be checkpointed: {}", list(found))]
    Obstacles {
        /// The process.
        pid: Pid,
        /// The reasons, with remedies.
        found: Vec<Obstacle>,
    },
    /// No usable CRIU.
    #[error(transparent)]
    Criu(#[from] criu::version::Error),
    /// CRIU can't be run, or a descriptor or a thread can't be had.
    #[error("cannot {what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The place for the checkpoint can't be used.
    #[error("cannot write a checkpoint to {}: {source}", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The place has too little room.
    #[error(
        "{} has only {} MiB free, and the process has {} MiB of memory; make room or choose another directory", path.display(), free >> 20, needed >> 20
    )]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes of the process.
        needed: u64,
    },
    /// The checkpoint can't be stored. The process runs on.
    #[error("the checkpoint of process {pid} cannot be stored: {source}{}", remedy(source.is_full()))]
    Capture {
        /// The process.
        pid: Pid,
        /// The reason.
        source: capture::Error,
    },
    /// The checkpoint can't be published. The process runs on.
    #[error("the checkpoint of process {pid} cannot be stored: {source}{}", remedy(source.is_full()))]
    Publish {
        /// The process.
        pid: Pid,
        /// The reason.
        source: format::publish::Error,
    },
    /// CRIU could not restore it. It runs on.
    #[error("process {pid} cannot be checkpointed: {why}")]
    Unrestorable {
        /// The process.
        pid: Pid,
        /// The reason and the remedy.
        why: String,
    },
    /// It has memory that the checkpoint's owner may not read. It runs on.
    #[error("process {pid} cannot be checkpointed: {why}; checkpoint it as root")]
    Foreign {
        /// The process.
        pid: Pid,
        /// The reason.
        why: String,
    },
    /// The caller's hook failed ([`crate::Hook`]). The process runs on.
    #[error(
        "the checkpoint {} of process {pid} is complete, but cannot be recorded: {source}; the process runs on", path.display()
    )]
    Record {
        /// The process.
        pid: Pid,
        /// The checkpoint.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Memory of an earlier lazy restore is missing.
    #[error("process {pid} cannot be checkpointed: {source}")]
    Incomplete {
        /// The process.
        pid: Pid,
        /// The reason.
        source: session::Incomplete,
    },
    /// CRIU could not dump it. It runs on.
    #[error("process {pid} cannot be checkpointed: {why}{log}")]
    Dump {
        /// The process.
        pid: Pid,
        /// CRIU's reason.
        why: String,
        /// Where its log is.
        log: LogNote,
    },
    /// The caller ended the command. The process runs on.
    #[error("cancelled; nothing was changed")]
    Cancelled,
    /// The checkpoint can't be opened.
    #[error("cannot open the checkpoint {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The checkpoint is damaged or refused.
    #[error("the checkpoint {} cannot be restored: {source}", path.display())]
    View {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: view::Error,
    },
    /// The checkpoint can't be restored here, or not for this caller.
    #[error("the checkpoint {} cannot be restored: {why}", path.display())]
    Refused {
        /// Its path.
        path: PathBuf,
        /// The reason and the remedy.
        why: String,
    },
    /// CRIU could not restore it.
    #[error("the checkpoint {} cannot be restored: {why}{log}", path.display())]
    Restore {
        /// Its path.
        path: PathBuf,
        /// The reason.
        why: String,
        /// Where CRIU's log is.
        log: LogNote,
    },
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

fn list(found: &[Obstacle]) -> String {
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn remedy(full: bool) -> &'static str {
    match full {
        true => "; make room or choose another directory",
        false => "",
    }
}
