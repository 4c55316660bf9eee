//! The daemon behind the command `cedana`.
//!
//! ```text
//! cedana ─┐               ┌ supervisor ── program
//! clients ┴─ gRPC ─ daemon┼ supervisor ── program
//!                     │   └ ...
//!                  cedana.db
//! ```
//!
//! The daemon starts programs as their callers ([`caller`]), each under a supervisor of
//! its own ([`supervisor`]), and keeps what is known of them in a database ([`store`]).
//! It can be restarted, upgraded or killed at any time: supervisors and programs go on,
//! and the next daemon finds them ([`jobs`]).
//!
//! ```text
//! run         the daemon's life
//! service     the gRPC services
//! listen      sockets, the token, TLS, the caller of a request
//! checkpoints dump and restore of jobs, processes and containers
//! jobs        starting, finding, signalling and removing jobs
//! store       the database
//! memory_store  collection of the memory that checkpoints share
//! supervisor  a job's supervisor, a process of its own
//! worker      a dump or a restore of processes, a process of its own
//! job         what supervisor and daemon both know of a job
//! ```
//!
//! Each uses only those below it.

pub mod caller;
mod checkpoints;
mod error;
pub mod job;
pub mod jobs;
mod listen;
mod logger;
pub mod memory_store;
mod options;
mod run;
mod service;
mod service_manager;
pub mod store;
pub mod supervisor;
mod sys;
pub mod tail;
pub mod worker;

pub use error::Error;
pub use options::{Options, TlsFiles};
pub use run::run;
pub use sys::lower_priority;

/// Runs a helper, if this process was started as one: a job's supervisor, a worker, or a
/// helper of the engine. The program calls it first, before it starts a thread or reads
/// its arguments.
#[must_use]
pub fn run_if_helper() -> Option<std::process::ExitCode> {
    supervisor::run_if_asked()
        .or_else(worker::run_if_asked)
        .or_else(cedana_process::run_as_helper)
}
