//! Checkpoints of jobs, processes and containers.
//!
//! ```text
//! service ──► job ─────────► the job's supervisor ──► worker ──► engine, CRIU
//!         ──► process ──────────────────────────────► worker
//!         ──► runc ───────► cedana-runc
//!         ──► containerd ─► containerd ──► shim
//! ```
//!
//! [`transfer`] exports and imports checkpoints, by a worker, too.
//!
//! Each kind has `dump`, `restore`, `freeze`, `unfreeze` and `check`, as far as it makes
//! sense. A call that takes long is a future that tells its progress ([`Tell`]). Dropping
//! it cancels the call: what was to be dumped runs on, and nothing half-written is left.

mod bundle;
mod cancel;
pub(crate) mod containerd;
pub(crate) mod estimate;
pub(crate) mod freeze;
pub(crate) mod process;
pub(crate) mod runc;
pub(crate) mod transfer;
mod work;

pub(crate) use crate::worker::{Failure, Kind, Progress};
pub(crate) use bundle::sweep as sweep_bundles;
pub(crate) use cancel::{all_ended, cancel_all};

use std::path::PathBuf;

use cedana_config::Config;
use tokio::sync::mpsc;

/// What a call tells before its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Progress(Progress),
    /// Something that was done otherwise than asked, for people.
    Warning(String),
}

/// Where a call tells it. Progress that has no room is left out (`try_send`); a receiver
/// that is gone is no error.
pub(crate) type Tell = mpsc::Sender<Told>;

/// How something is dumped.
#[derive(Debug, Clone)]
pub(crate) struct DumpOptions {
    /// The directory of the archive.
    pub(crate) directory: PathBuf,
    /// Beginning of the archive's name; empty for that of what is dumped.
    pub(crate) name: String,
    /// It runs on.
    pub(crate) leave_running: bool,
    /// The settings of this call.
    pub(crate) config: Config,
}

/// A checkpoint that is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dumped {
    /// The archive; empty for an image.
    pub(crate) path: PathBuf,
    /// containerd's image.
    pub(crate) image: String,
    /// Bytes of memory.
    pub(crate) raw_bytes: u64,
    /// The same as stored.
    pub(crate) stored_bytes: u64,
    /// Microseconds for which it stood still; 0 if unknown, or if it was ended.
    pub(crate) frozen_us: u64,
    /// Microseconds until the checkpoint was on disk.
    pub(crate) total_us: u64,
}

/// How something is restored.
#[derive(Debug, Clone)]
pub(crate) struct RestoreOptions {
    /// TCP connections are closed.
    pub(crate) tcp_close: bool,
    /// The processes are left stopped.
    pub(crate) leave_stopped: bool,
    /// The settings of this call.
    pub(crate) config: Config,
}

/// What stands in the way of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// What stops it, with the remedy.
    pub(crate) obstacles: Vec<String>,
    /// What would be lost or different after a restore.
    pub(crate) warnings: Vec<String>,
    /// Number of processes.
    pub(crate) processes: u32,
    /// Bytes of memory.
    pub(crate) memory: u64,
}
