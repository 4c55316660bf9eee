//! Why the daemon does not start or stops.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::store::StoreError;

/// The daemon does not start or stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller is not root.
    #[error(
        "the daemon must be root, because it runs jobs as their owners; try: sudo cedana daemon start"
    )]
    NotRoot,
    /// Another daemon.
    #[error("{what} {} is in use by another daemon{holder}; stop that one first, or give this one another", path.display())]
    InUse {
        /// "the socket", "the state directory".
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The process, if it is known.
        holder: String,
    },
    /// A TCP address that strangers could reach.
    #[error(
        "the address {0} can be reached from other machines, so clients must have certificates: set daemon.tls_certificate, daemon.tls_key and daemon.tls_client_ca (mutual TLS), or listen on 127.0.0.1"
    )]
    NoTls(SocketAddr),
    /// An address that can't be listened on.
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Listen {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// "create", "read".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A certificate or key.
    #[error(
        "mutual TLS cannot be set up: {0}; are the three files PEM, and does the key belong to the certificate?"
    )]
    Tls(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn other(what: &str) -> impl FnOnce(io::Error) -> Self + use<'_> {
        move |error| Self::Other(format!("cannot {what}: {error}"))
    }

    pub(crate) fn serve(error: impl Display) -> Self {
        Self::Other(format!("the gRPC server stopped: {error}"))
    }
}
