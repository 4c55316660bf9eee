//! Command lines that are refused.

/// Why a command line is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error("{verb}: unknown flag {flag}; run the wrapped runtime directly if it is new there")]
    UnknownFlag { verb: &'static str, flag: String },
    #[error("{verb}: the flag {flag} needs a value")]
    MissingValue { verb: &'static str, flag: String },
    #[error("{verb}: {id:?} is not a container ID")]
    BadId { verb: &'static str, id: String },
    #[error("checkpoint: --progress-fd needs the number of an open file, not {value:?}")]
    BadFd { value: String },
    #[error("checkpoint: --{flag} can't be given with --archive-dir; leave one of them out")]
    BesideArchive { flag: &'static str },
    #[error("checkpoint: --archive-name needs --archive-dir")]
    NoArchiveDir,
    #[error("usage: cedana-runc inspect [--json] (CHECKPOINT | --restores)")]
    InspectUsage,
    #[error("usage: cedana-runc unpack CHECKPOINT [--to DIR]")]
    UnpackUsage,
}
