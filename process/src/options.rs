//! Options of a dump.

use std::path::PathBuf;
use std::time::Duration;

use cedana_checkpoint::format::pages::Compression;

/// Options of a dump.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The name of what is dumped, a job's ID or the program's, for the archive's name
    /// and the manifest. Empty means the program's.
    pub name: String,
    /// The process runs on.
    pub leave_running: bool,
    /// Keep TCP connections, instead of refusing a process that has some.
    pub tcp_established: bool,
    /// Keep file locks.
    pub file_locks: bool,
    /// Keep unlinked files that have another name.
    pub link_remap: bool,
    /// The largest unlinked file that is copied, in bytes.
    pub ghost_limit: u64,
    /// It is a shell's job: its session and terminal are those of the restoring shell.
    pub shell_job: bool,
    /// Descriptors of the process, by number, whose other ends its supervisor holds:
    /// log pipes, a terminal. The restore gets others ([`crate::RestoreOptions::stdio`]).
    pub held: Vec<i32>,
    /// How memory is stored.
    pub compression: Compression,
    /// Limit of the buffers, in bytes.
    pub memory: u64,
    /// Whether CRIU may write to spare memory.
    pub spare_memory: bool,
    /// CRIU's time limit for stopping all processes.
    pub timeout: Duration,
    /// The directory for CRIU's logs after failures, and how many are kept.
    pub logs: (PathBuf, usize),
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            leave_running: false,
            tcp_established: true,
            file_locks: true,
            link_remap: true,
            ghost_limit: 512 << 20,
            shell_job: false,
            held: Vec::new(),
            compression: Compression::Zstd { level: 1 },
            memory: 128 << 20,
            spare_memory: true,
            timeout: Duration::from_secs(60),
            logs: (PathBuf::from("/var/log/cedana"), 100),
        }
    }
}
