//! The typed settings and their built-in defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings. [`Default`] returns the built-in values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// OCI runtime that runs every command but checkpoint and restore: a name
    /// looked up in `PATH`, or an absolute path.
    pub runtime: PathBuf,
    /// Directory in which the CRIU logs of failed operations are kept.
    pub log_dir: PathBuf,
    /// Number of those logs that are kept. The oldest are removed first. 0 keeps none.
    pub log_keep: usize,
    /// Settings of checkpoints.
    pub checkpoint: Checkpoint,
    /// Settings of restores.
    pub restore: Restore,
    /// Settings of CRIU.
    pub criu: Criu,
    /// Where the daemon of the command `cedana` listens.
    pub daemon: Daemon,
    /// Where checkpoints of jobs are stored.
    pub shared_storage: SharedStorage,
    /// The store: memory that several checkpoints share.
    pub store: Store,
}

/// The store: memory that several checkpoints share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Its directory, on a local file system.
    pub path: PathBuf,
    /// The most bytes that it may hold. 0: as many as the file system has.
    pub quota: u64,
    /// How long memory is kept to which no checkpoint refers any more.
    pub grace: Duration,
    /// How often the daemon removes such memory. 0: never.
    pub gc_interval: Duration,
}

/// Where the daemon of the command `cedana` listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// The unix socket.
    pub socket: PathBuf,
    /// The TCP address. `None`: the socket alone.
    pub tcp: Option<SocketAddr>,
    /// The daemon's certificate for mutual TLS, a PEM file.
    pub tls_certificate: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    pub tls_key: Option<PathBuf>,
    /// The authority that signs the clients' certificates, a PEM file.
    pub tls_client_ca: Option<PathBuf>,
}

/// Where checkpoints of jobs are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedStorage {
    /// The directory for checkpoints of commands without `-d`.
    pub dump_storage_dir: Option<PathBuf>,
}

/// Settings of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether the container runs on after a checkpoint if the client doesn't say.
    /// `None`: it is stopped under Docker and runs on under every other engine.
    /// `docker checkpoint create` stops the container by default, and sends no
    /// options to a runtime that is given by type.
    pub leave_running: Option<bool>,
    /// Which tasks the shim resumes when CRIU is done, if the client paused them
    /// for the checkpoint.
    pub resume_early: ResumeEarly,
    /// Whether a checkpoint that could never be restored is refused.
    pub doubtful: Doubtful,
    /// Keep established TCP connections instead of refusing the checkpoint.
    pub tcp_established: bool,
    /// Dump file locks instead of refusing the checkpoint.
    pub file_locks: bool,
    /// Allow unix sockets whose other end is outside the container.
    pub ext_unix_sk: bool,
    /// Link open files that were unlinked but have another name to a temporary
    /// name, so that a restore finds them.
    pub link_remap: bool,
    /// Largest deleted but open file that is copied into a checkpoint, in bytes.
    pub ghost_limit: u64,
    /// CRIU's time limit for freezing the container, in whole seconds.
    pub timeout: Duration,
    /// The form in which the container's memory is stored.
    pub compression: Compression,
    /// zstd compression level.
    pub level: i32,
    /// Memory limit of a checkpoint's buffers, in bytes.
    pub memory: u64,
    /// Whether CRIU's output may be buffered in spare memory (a memfd).
    pub spare_memory: bool,
    /// Whether the checkpoint holds the memory, or refers to the store.
    pub store: Storage,
}

/// Where a checkpoint's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In the store under Docker, whose checkpoints never leave the node. Else in the
    /// checkpoint, which an image or an archive then carries whole.
    #[default]
    Auto,
    /// In the store.
    Reference,
    /// In the checkpoint.
    Inline,
}

/// Treatment of a checkpoint that could never be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Doubtful {
    /// Refused if it would stop the container, which goes on running. A checkpoint
    /// that leaves the container running loses nothing, so it is taken with a
    /// warning.
    #[default]
    Refuse,
    /// Taken with a warning, whether or not the container is stopped.
    Warn,
}

/// Which tasks the shim resumes as soon as CRIU is done, before the client that
/// paused them for the checkpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ResumeEarly {
    /// None.
    Never,
    /// Those that the client certainly paused for this checkpoint, if certainly
    /// nothing reads the container's files afterwards.
    #[default]
    Certain,
    /// Also those of `container.Checkpoint`, which `ctr container checkpoint`
    /// calls. Then no program may pause a task for itself and call it.
    Container,
}

/// The form in which a container's memory is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd, unless compression would keep a paused container paused for longer.
    Auto,
    /// Uncompressed, as CRIU writes it.
    None,
    /// In zstd frames, which `zstd -d` decompresses.
    Zstd,
}

/// Settings of restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Whether the container runs while its memory is still being read.
    pub mode: Mode,
    /// Cores that prefetch memory, ahead of the container's page faults.
    pub prefetch_cores: Cores,
    /// Treatment of TCP connections that were established.
    pub tcp: Tcp,
    /// Time for which init is watched after CRIU's success before the restore succeeds.
    /// Zero checks once.
    pub settle: Duration,
    /// Memory limit of a restore's buffers, in bytes.
    pub memory: u64,
    /// Treatment of a checkpoint whose processes have privileges that the new
    /// container's spec does not give.
    pub check: Check,
    /// The checkpoints that may be restored.
    pub accept: Accept,
    /// How long a restore may make no progress before it is given up. `None`: no
    /// limit.
    pub timeout: Option<Duration>,
}

/// Treatment of a checkpoint that says more than the container's config.json. CRIU
/// restores what the images say, and runc does not compare them with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// It is not restored.
    #[default]
    Strict,
    /// It is restored with a warning.
    Warn,
    /// It is restored without a comparison.
    Off,
}

/// The checkpoints that may be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// Those of `cedana-runc`, and those that CRIU wrote for another runtime.
    #[default]
    Any,
    /// Those with a manifest of `cedana-runc`, whose digests are verified.
    Ours,
    /// Those whose manifest is signed with the node's key.
    Signed,
}

/// The time at which a container's memory is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// While the container runs, where lazy restore is possible.
    #[default]
    Lazy,
    /// Before the container runs.
    Eager,
}

/// A number of processor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// A number of cores.
    Number(u16),
    /// A percentage of the cores.
    Percent(u8),
}

impl Cores {
    /// The number of cores out of `all`, at least one.
    ///
    /// ```
    /// use cedana_config::Cores;
    ///
    /// assert_eq!(Cores::Percent(50).of(8), 4);
    /// assert_eq!(Cores::Percent(1).of(8), 1);
    /// assert_eq!(Cores::Number(16).of(8), 8);
    /// ```
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        let number = match self {
            Self::Number(number) => usize::from(number),
            Self::Percent(percent) => all * usize::from(percent) / 100,
        };
        number.clamp(1, all.max(1))
    }
}

/// Treatment of the TCP connections in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tcp {
    /// Kept if the network that the container is restored into has their addresses,
    /// else closed.
    #[default]
    Auto,
    /// Kept. The restore fails if an address is missing.
    Keep,
    /// Closed: the application reads end of file, and writes fail.
    Close,
    /// A checkpoint with established connections is not restored.
    Refuse,
}

/// Settings of CRIU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Criu {
    /// The configuration files that a container may give to CRIU.
    pub config_annotation: ConfigAnnotation,
}

/// The CRIU configuration files that a container's annotation `org.criu.config` may
/// name. Such a file can run a program as root (CRIU's `action-script`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConfigAnnotation {
    /// Those below `/etc/criu`.
    #[default]
    EtcCriu,
    /// Any.
    Any,
    /// None.
    Refuse,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: PathBuf::from("runc"),
            log_dir: PathBuf::from("/var/log/cedana"),
            log_keep: 100,
            checkpoint: Checkpoint::default(),
            restore: Restore::default(),
            criu: Criu::default(),
            daemon: Daemon::default(),
            shared_storage: SharedStorage::default(),
            store: Store::default(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/lib/cedana/store"),
            quota: 0,
            // `docker checkpoint rm` and a new one of the same container some minutes
            // later share nearly all of their memory.
            grace: Duration::from_secs(3600),
            // It looks at names and the catalogue only: milliseconds on most nodes.
            gc_interval: Duration::from_secs(600),
        }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/cedana/cedana.sock"),
            tcp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            leave_running: None,
            resume_early: ResumeEarly::Certain,
            doubtful: Doubtful::Refuse,
            tcp_established: true,
            file_locks: true,
            ext_unix_sk: true,
            link_remap: true,
            // CRIU's default is 1 MiB. Deleted temporary files of databases and
            // build tools are commonly several times that size.
            ghost_limit: 512 << 20,
            // CRIU's default is 10 s, which a few thousand threads exceed on a
            // loaded node.
            timeout: Duration::from_secs(60),
            compression: Compression::Auto,
            // Lower levels take a tenth less processor time and store text at
            // least a sixth larger, which costs the disk and every copy. Higher
            // levels take half again as much time and save 5%.
            level: 1,
            memory: 128 << 20,
            spare_memory: true,
            store: Storage::Auto,
        }
    }
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            mode: Mode::Lazy,
            // Prefetch runs at the lowest priority, so other processes go first.
            prefetch_cores: Cores::Percent(100),
            tcp: Tcp::Auto,
            // A process that can't go on (a sleep that returned EINTR, a missing
            // CPU feature) exits within its first time slices.
            settle: Duration::from_millis(20),
            memory: 128 << 20,
            check: Check::Strict,
            accept: Accept::Any,
            // An eager restore of 1 TiB from a disk that reads 2 GiB/s takes nine
            // minutes. A restore that takes longer most likely waits for ever.
            timeout: Some(Duration::from_secs(600)),
        }
    }
}
