//! Why a command failed.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use tonic::{Code, Status};

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The daemon does not answer.
    #[error(
        "the daemon does not answer at {address}: {reason}; start it with `sudo cedana daemon start`, or `sudo systemctl start cedana` if it is installed as a service"
    )]
    NoDaemon { address: String, reason: String },
    /// The socket is not for this user.
    #[error(
        "you may not use the daemon's socket {}: it is for root and the group cedana; `sudo usermod -aG cedana $USER` adds you, from your next login on", .0.display()
    )]
    NotAllowed(PathBuf),
    /// The daemon has refused.
    #[error("{0}")]
    Refused(String),
    /// Settings.
    #[error(transparent)]
    Config(#[from] cedana_config::Error),
    /// The daemon did not start.
    #[error(transparent)]
    Daemon(#[from] cedana_daemon::Error),
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Anything else, with its remedy.
    #[error("{0}")]
    Other(String),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn other(what: &str, error: impl Display) -> Self {
        Self::Other(format!("cannot {what}: {error}"))
    }

    /// The exit code of a command that does not exit like a program.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NoDaemon { .. } | Self::NotAllowed(_) => 3,
            _ => 1,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled
                if status.message().is_empty() || is_transport(&status) =>
            {
                Self::Refused(format!(
                    "the daemon has gone away: {}; jobs go on, and `cedana ps` shows them when it is back",
                    status.message()
                ))
            }
            Code::Unimplemented => Self::Refused(
                "the daemon is older than this command; restart it: jobs go on".to_owned(),
            ),
            _ => Self::Refused(status.message().to_owned()),
        }
    }
}

/// Whether the connection failed, not the request.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
