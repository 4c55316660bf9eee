//! The error type of the task service, and its translation into ttrpc.
//!
//! containerd turns the ttrpc code back into its own error classes
//! (`errdefs`), and clients act on the class: `ctr task rm -f` ignores "not
//! found", Docker does not retry on "already exists". Failures of the OCI runtime are
//! sent as `UNKNOWN`, as in containerd's own shim, so that clients print the text
//! without a prefix.

use std::{io, path::Path};

use containerd_shim::protos::ttrpc::{self, Code};

/// The error of a request on a task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The container, the process or its cgroup does not exist. Clients look for the
    /// suffix, which is that of Go's errdefs.
    #[error("{0}: not found")]
    NotFound(String),
    /// The ID is taken.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// The task's state does not admit the request.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request itself is wrong; the text names the field.
    #[error("{0}")]
    InvalidArgument(String),
    /// The OCI runtime or `cedana-runc` failed, with this text.
    #[error("{0}")]
    Runtime(String),
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation and its object.
        context: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl From<Error> for ttrpc::Error {
    fn from(e: Error) -> Self {
        let code = match &e {
            Error::NotFound(_) => Code::NOT_FOUND,
            Error::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Error::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
            Error::InvalidArgument(_) => Code::INVALID_ARGUMENT,
            Error::Runtime(_) | Error::Io { .. } => Code::UNKNOWN,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, e))
    }
}

/// Adds the failed operation to a system error.
pub(crate) trait Context<T> {
    /// `context` is called only on an error.
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<C: Into<String>>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| Error::Io {
            context: context().into(),
            source: e.into(),
        })
    }
}

/// "read /path": the usual shape of a context.
pub(crate) fn at(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}
