//! What a worker does and tells, as messages.

use std::path::PathBuf;
use std::time::Duration;

use cedana_config::Config;
use cedana_contract::progress::Phase;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::job::bytes::Bytes;
use crate::job::spec::Credentials;

/// What a worker is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Dump a process and its children.
    Dump(Dump),
    /// Restore a checkpoint.
    Restore(Restore),
    /// Write a checkpoint into one file.
    Export(Export),
    /// Make an archive of a file from elsewhere.
    Import(Import),
}

/// A dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The root of the processes.
    pub pid: i32,
    /// The directory of the archive.
    pub directory: Bytes,
    /// The user with whose rights the directory is written to; the owner of the archive.
    pub owner: Owner,
    /// Whose all processes must be; root's may be anybody's.
    pub user: Owner,
    /// Beginning of the archive's name; empty for that of the program.
    pub name: String,
    /// It runs on.
    pub leave_running: bool,
    /// It belongs to a shell's session.
    pub shell_job: bool,
    /// The supervisor's file to which it writes.
    pub output: Option<Bytes>,
    /// Whether its terminal is the supervisor's.
    pub terminal: bool,
    /// The file in which the checkpoint is recorded before the process ends.
    pub record: Option<Bytes>,
    /// Settings.
    pub engine: Engine,
}

/// A restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The archive or the directory.
    pub path: Bytes,
    /// The user with whose rights it is read.
    pub reader: Owner,
    /// Whose the processes may be.
    pub owner: Owner,
    /// The name for logs.
    pub name: String,
    /// TCP connections are closed.
    pub tcp_close: bool,
    /// The processes are left stopped.
    pub leave_stopped: bool,
    /// The descriptor of a terminal in place of the one that was left out.
    pub terminal: Option<i32>,
    /// The descriptor of the file to which it writes.
    pub output: Option<i32>,
    /// The directory that gets the reason if the processes must be killed later.
    pub report: Bytes,
    /// Settings.
    pub engine: Engine,
}

/// An export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The archive or the directory.
    pub path: Bytes,
    /// The user with whose rights it is read.
    pub reader: Owner,
    /// The new file.
    pub file: Bytes,
    /// The user with whose rights the directory is written to; the owner of the file.
    pub owner: Owner,
    /// Podman's format.
    pub podman: Option<Podman>,
    /// Settings.
    pub engine: Engine,
}

/// Podman's format. What is empty comes from the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Podman {
    /// How the file is compressed.
    pub compress: Compress,
    /// Name of the container.
    pub name: String,
    /// Name of its image.
    pub image: String,
    /// ID of its image.
    pub image_id: String,
    /// The runtime that restores it.
    pub runtime: String,
    /// A directory with its config.json.
    pub bundle: Option<Bytes>,
}

/// How a file in Podman's format is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// It is not.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The file.
    pub file: Bytes,
    /// The user with whose rights it is read.
    pub reader: Owner,
    /// The directory of the new archive.
    pub directory: Bytes,
    /// The user with whose rights the directory is written to; the owner of the archive.
    pub owner: Owner,
    /// Beginning of the archive's name.
    pub name: String,
    /// Settings.
    pub engine: Engine,
}

/// The end of an export or an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// The new file, and its bytes.
    pub path: Bytes,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of memory.
    pub raw_bytes: u64,
    /// ID of the container that it is of; `None` if it is a process's.
    pub container: Option<String>,
}

/// A user on whose behalf files are opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The settings that the engine needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Keep TCP connections.
    pub tcp_established: bool,
    /// Keep file locks.
    pub file_locks: bool,
    /// Keep unlinked files that have another name.
    pub link_remap: bool,
    /// The largest unlinked file that is copied, in bytes.
    pub ghost_limit: u64,
    /// zstd's level; `None` stores memory as it is.
    pub level: Option<i32>,
    /// Limit of a dump's buffers, in bytes.
    pub dump_memory: u64,
    /// Whether CRIU may write to spare memory.
    pub spare_memory: bool,
    /// CRIU's time limit for stopping all processes, in seconds.
    pub timeout: u64,
    /// Whether memory may come while the processes run.
    pub lazy: bool,
    /// The cores that prefetch memory.
    pub threads: usize,
    /// Limit of a restore's buffers, in bytes.
    pub restore_memory: u64,
    /// Checkpoints without the node's signature are refused.
    pub signed: bool,
    /// Checkpoints without a manifest are accepted.
    pub any: bool,
    /// The directory of the node's store.
    pub store: Bytes,
    /// Whether the memory goes there.
    pub by_reference: bool,
    /// The most bytes that the store may hold. 0: any.
    pub quota: u64,
    /// The directory of logs of failures.
    pub log_dir: Bytes,
    /// How many are kept.
    pub log_keep: usize,
}

/// What a worker tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// How far it is.
    Progress(Progress),
    /// The checkpoint is on disk. The process has not ended yet.
    Stored(Stored),
    /// The dump has succeeded.
    Dumped(Dumped),
    /// The processes run.
    Restored(Restored),
    /// The export or the import has succeeded.
    Transferred(Transferred),
    /// It has failed; nothing has changed.
    Failed(Failure),
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Bytes of memory that were written.
    pub raw: u64,
    /// Those of them that are stored.
    pub done: u64,
    /// The same as stored.
    pub stored: u64,
}

impl Progress {
    pub(crate) fn of_engine(progress: cedana_process::Progress) -> Self {
        use cedana_process::Phase as Engine;
        Self {
            phase: match progress.phase {
                Engine::Dump => Phase::Dump,
                Engine::Compress => Phase::Compress,
                Engine::Sync => Phase::Sync,
            },
            raw: progress.raw,
            done: progress.done,
            stored: progress.stored,
        }
    }
}

/// A checkpoint that is on disk. The lines of a job's file `checkpoints` are such, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The archive.
    pub path: Bytes,
    /// Microseconds since 1970.
    pub at: i64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Whether the process ends with it.
    pub ends: bool,
}

/// The end of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumped {
    /// The archive.
    pub path: Bytes,
    /// Bytes of memory, and the same as stored.
    pub raw_bytes: u64,
    /// The same as stored.
    pub stored_bytes: u64,
    /// Microseconds for which it stood still, if it runs on.
    pub frozen_us: u64,
    /// Microseconds until the checkpoint was on disk.
    pub total_us: u64,
}

/// Restored processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The root of the processes.
    pub pid: i32,
    /// The process that ends with it, and is the worker's child: the root, or the keeper
    /// of its PID namespace.
    pub child: i32,
    /// Whether memory comes while they run.
    pub lazy: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

impl Owner {
    /// The user with these credentials.
    pub(crate) fn of(credentials: &Credentials) -> Self {
        Self {
            uid: credentials.uid,
            gid: credentials.gid,
            groups: credentials.groups.clone(),
        }
    }

    pub(crate) fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        }
    }

    pub(crate) fn of_engine(&self) -> cedana_process::Owner {
        cedana_process::Owner {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        }
    }
}

impl Engine {
    /// The settings of a call.
    pub(crate) fn of(config: &Config) -> Self {
        use cedana_config::{Accept, Compression, Mode};
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (checkpoint, restore) = (&config.checkpoint, &config.restore);
        Self {
            tcp_established: checkpoint.tcp_established,
            file_locks: checkpoint.file_locks,
            link_remap: checkpoint.link_remap,
            ghost_limit: checkpoint.ghost_limit,
            level: (checkpoint.compression != Compression::None).then_some(checkpoint.level),
            dump_memory: checkpoint.memory,
            spare_memory: checkpoint.spare_memory,
            timeout: checkpoint.timeout.as_secs(),
            lazy: restore.mode == Mode::Lazy,
            threads: restore.prefetch_cores.of(cores),
            restore_memory: restore.memory,
            signed: restore.accept == Accept::Signed,
            any: restore.accept == Accept::Any,
            store: Bytes(config.store.path.as_os_str().as_encoded_bytes().to_vec()),
            by_reference: checkpoint.store == cedana_config::Storage::Reference,
            quota: config.store.quota,
            log_dir: Bytes(config.log_dir.as_os_str().as_encoded_bytes().to_vec()),
            log_keep: config.log_keep,
        }
    }

    /// The engine's options of a dump, as far as they are settings.
    pub(crate) fn dump_options(&self) -> cedana_process::DumpOptions {
        cedana_process::DumpOptions {
            tcp_established: self.tcp_established,
            file_locks: self.file_locks,
            link_remap: self.link_remap,
            ghost_limit: self.ghost_limit,
            compression: self.compression(),
            store: self.by_reference.then(|| cedana_process::MemoryStore {
                path: self.store.as_path().to_owned(),
                level: self.level.unwrap_or(cedana_process::MemoryStore::FASTEST),
                quota: (self.quota != 0).then_some(self.quota),
            }),
            memory: self.dump_memory,
            spare_memory: self.spare_memory,
            timeout: Duration::from_secs(self.timeout),
            logs: self.logs(),
            ..cedana_process::DumpOptions::default()
        }
    }

    /// How memory is stored.
    pub(crate) fn compression(&self) -> cedana_process::Compression {
        match self.level {
            Some(level) => cedana_process::Compression::Zstd { level },
            None => cedana_process::Compression::None,
        }
    }

    /// The directory of logs of failures, and how many are kept.
    pub(crate) fn logs(&self) -> (PathBuf, usize) {
        (self.log_dir.as_path().to_owned(), self.log_keep)
    }
}
