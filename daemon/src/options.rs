//! How the daemon is started.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the daemon listens and keeps its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// The unix socket.
    pub socket: PathBuf,
    /// The TCP address; None for the socket alone.
    pub tcp: Option<SocketAddr>,
    /// Certificates for mutual TLS.
    pub tls: Option<TlsFiles>,
    /// Directory of the database, of jobs and of the token.
    pub state_dir: PathBuf,
    /// The node's store, whose catalogue has the checkpoints.
    pub store: PathBuf,
    /// Directory of running jobs.
    pub run_dir: PathBuf,
    /// Whether the log has details.
    pub debug: bool,
}

/// PEM files for mutual TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The daemon's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that signs the clients' certificates.
    pub client_ca: PathBuf,
}
