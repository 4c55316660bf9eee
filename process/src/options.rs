//! Options of a dump.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cedana_checkpoint::format::pages::Compression;

use crate::destination::Target;
use crate::owner::Owner;

/// What a caller does when a checkpoint is on disk, such as writing a record of it.
#[derive(Clone)]
pub struct Hook(Arc<Call>);

type Call = dyn Fn(&Published) -> io::Result<()> + Send + Sync;

impl Hook {
    /// Wraps a function. If it fails, so does the dump: the process runs on, and the error
    /// names the checkpoint, which is complete.
    pub fn new(hook: impl Fn(&Published) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn call(&self, published: &Published) -> io::Result<()> {
        (self.0)(published)
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A checkpoint that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The archive, or the directory.
    pub path: PathBuf,
    /// Bytes of memory.
    pub raw_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
    /// From the start of CRIU until the checkpoint was on disk.
    pub total: Duration,
}

/// Options of a dump.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The name of what is dumped, a job's ID or the program's, for the archive's name
    /// and the manifest. Empty means the program's.
    pub name: String,
    /// The user that all processes must belong to, if not to the archive's owner: a
    /// checkpoint that the user can't read can still be restored for the user.
    pub user: Option<Owner>,
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
    /// The file that its supervisor has opened, to append to it, as the standard output
    /// and error. The restore may get another one ([`crate::RestoreOptions::stdio`]);
    /// without one CRIU opens this path.
    pub output: Option<PathBuf>,
    /// Called when the checkpoint is on disk, and before a process that is to end does.
    pub published: Option<Hook>,
    /// How memory is stored.
    pub compression: Compression,
    /// The store that the memory goes to; without one the checkpoint holds it.
    pub store: Option<MemoryStore>,
    /// Limit of the buffers, in bytes.
    pub memory: u64,
    /// Whether CRIU may write to spare memory.
    pub spare_memory: bool,
    /// CRIU's time limit for stopping all processes.
    pub timeout: Duration,
    /// The directory for CRIU's logs after failures, and how many are kept.
    pub logs: (PathBuf, usize),
}

/// A store for the memory of checkpoints.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    /// Its directory.
    pub path: PathBuf,
    /// zstd's level.
    pub level: i32,
    /// The most bytes that it may hold.
    pub quota: Option<u64>,
}

impl MemoryStore {
    /// zstd's fastest level: what no compression means in a store.
    pub const FASTEST: i32 = -7;
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            user: None,
            leave_running: false,
            tcp_established: true,
            file_locks: true,
            link_remap: true,
            ghost_limit: 512 << 20,
            shell_job: false,
            held: Vec::new(),
            output: None,
            published: None,
            compression: Compression::Zstd { level: 1 },
            store: None,
            memory: 128 << 20,
            spare_memory: true,
            timeout: Duration::from_secs(60),
            logs: (PathBuf::from("/var/log/cedana"), 100),
        }
    }
}

impl DumpOptions {
    /// The user that all processes must belong to; root for those of any.
    pub(crate) fn owner<'a>(&'a self, target: &'a Target) -> &'a Owner {
        self.user.as_ref().unwrap_or_else(|| target.owner())
    }
}
