//! The commands of checkpoints.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::JobName;

/// A process ID.
#[derive(Debug, Args)]
pub(crate) struct ProcessId {
    /// The process
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: u32,
}

/// What names a container of runc.
#[derive(Debug, Args)]
pub(crate) struct RuncName {
    /// The container
    #[arg(
        value_name = "ID",
        required_unless_present = "id",
        conflicts_with = "id"
    )]
    pub(crate) container: Option<String>,
    /// The same
    #[arg(short, long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// runc's directory of containers [default: those of runc, containerd and Docker]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

/// What names a container of containerd.
#[derive(Debug, Args)]
pub(crate) struct ContainerdName {
    /// The container
    #[arg(
        value_name = "ID",
        required_unless_present = "container_id",
        conflicts_with = "container_id"
    )]
    pub(crate) container: Option<String>,
    /// The same
    #[arg(short = 'p', long, value_name = "ID")]
    pub(crate) container_id: Option<String>,
    #[command(flatten)]
    pub(crate) place: ContainerdPlace,
}

/// A containerd and a namespace of it.
#[derive(Debug, Args)]
pub(crate) struct ContainerdPlace {
    /// containerd's namespace; Docker's is moby, that of Kubernetes k8s.io
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,
    /// containerd's socket
    #[arg(
        long = "containerd-address",
        visible_alias = "address",
        value_name = "PATH",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub(crate) containerd: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dump {
    /// Dump a job
    Job {
        #[command(flatten)]
        job: JobName,
        #[command(flatten)]
        place: DumpPlace,
        #[command(flatten)]
        options: DumpOptions,
    },
    /// Dump a process and its children
    Process {
        #[command(flatten)]
        process: ProcessId,
        #[command(flatten)]
        place: DumpPlace,
        /// The process is a shell's: it is restored in the session of another one
        #[arg(long)]
        shell_job: bool,
        #[command(flatten)]
        options: DumpOptions,
    },
    /// Dump a container of runc or of Docker
    Runc {
        #[command(flatten)]
        container: RuncName,
        #[command(flatten)]
        place: DumpPlace,
        #[command(flatten)]
        options: DumpOptions,
    },
    /// Dump a container of containerd into an image
    Containerd {
        /// Name of the image that is made
        #[arg(short, long, value_name = "REF")]
        image: String,
        #[command(flatten)]
        container: ContainerdName,
        #[command(flatten)]
        options: DumpOptions,
    },
}

/// Where a checkpoint goes.
#[derive(Debug, Args)]
pub(crate) struct DumpPlace {
    /// Directory for NAME_DATETIME.tar [default: the setting
    /// shared_storage.dump_storage_dir; for a job the daemon's own directory]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// NAME in the archive's name [default: the ID, or the program's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// Options of every dump. Without one, the setting decides.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the checkpoint")]
pub(crate) struct DumpOptions {
    /// It runs on afterwards
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Keep established TCP connections; `=false` refuses them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tcp_established: Option<bool>,
    /// Keep file locks; `=false` refuses them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) file_locks: Option<bool>,
    /// Keep unlinked files that have another name; `=false` refuses them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) link_remap: Option<bool>,
    /// The largest unlinked file that is copied, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) ghost_limit: Option<String>,
    /// How memory is stored
    #[arg(long, value_enum)]
    pub(crate) compression: Option<Compression>,
    /// zstd's level, 1 to 19
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<i32>,
}

/// How memory is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// zstd, unless that would keep a container paused for longer
    Auto,
    /// As it is
    None,
    /// zstd
    Zstd,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Restore {
    #[command(subcommand)]
    pub(crate) what: Option<RestoreWhat>,
    #[command(flatten)]
    pub(crate) runc: RestoreRunc,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RestoreWhat {
    /// Restore a job
    Job {
        #[command(flatten)]
        job: JobName,
        /// The checkpoint [default: the job's newest]
        #[arg(short, long, value_name = "PATH")]
        path: Option<PathBuf>,
        /// Stay connected, and exit like the program
        #[arg(short, long)]
        attach: bool,
        #[command(flatten)]
        options: RestoreOptions,
    },
    /// Restore a process, which becomes a job
    Process {
        /// The checkpoint
        #[arg(short, long, value_name = "PATH")]
        path: PathBuf,
        /// ID of the job [default: the checkpoint's name]
        #[arg(short, long, value_name = "JOB")]
        id: Option<String>,
        /// Stay connected, and exit like the program
        #[arg(short, long)]
        attach: bool,
        #[command(flatten)]
        options: RestoreOptions,
    },
    /// Restore a container by runc
    Runc(RestoreRunc),
    /// Restore a container by containerd
    Containerd {
        /// The checkpoint's image
        #[arg(short, long, value_name = "REF")]
        image: String,
        #[command(flatten)]
        container: ContainerdName,
        #[command(flatten)]
        options: RestoreOptions,
    },
}

/// `restore runc`, and `restore` without a kind.
#[derive(Debug, Args)]
pub(crate) struct RestoreRunc {
    /// The container's bundle: a directory, or an archive by `docker export`
    #[arg(short, long, value_name = "PATH", required = true)]
    pub(crate) bundle: Option<PathBuf>,
    /// ID of the new container
    #[arg(short, long, value_name = "ID", required = true)]
    pub(crate) id: Option<String>,
    /// The checkpoint
    #[arg(
        short,
        long,
        value_name = "PATH",
        required_unless_present = "dir",
        conflicts_with = "dir"
    )]
    pub(crate) path: Option<PathBuf>,
    /// A directory, whose newest checkpoint is restored
    #[arg(short, long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// runc's directory of containers
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: RestoreOptions,
}

/// Options of every restore.
#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// Close TCP connections, instead of keeping them
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// Leave the processes stopped; SIGCONT lets them run
    #[arg(long)]
    pub(crate) leave_stopped: bool,
}

/// What runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Subject {
    /// A job
    Job(JobName),
    /// A process and its children
    Process(ProcessId),
    /// A container of runc or of Docker
    Runc(RuncName),
    /// A container of containerd
    Containerd(ContainerdName),
}

/// Of `cedana check`.
const CHECK: &str = "\
Exit codes:
  0  nothing that is needed is missing, or nothing is known to stop the checkpoint
  1  something is
  3  the daemon does not answer; it is asked about jobs, processes and containers

A line begins with a check mark (ok), a cross (NO), `!` for what works less well than it
could, `-` for what is not installed and not needed, or `?` for what only root can see.";

#[derive(Debug, Args)]
#[command(after_help = CHECK)]
pub(crate) struct Check {
    #[command(subcommand)]
    pub(crate) what: Option<Subject>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Directory in which the checkpoint would be [default: that of
    /// `cedana dump`]
    #[arg(short, long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The process is a shell's, as for `cedana dump process`
    #[arg(long, global = true)]
    pub(crate) shell_job: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Manage {
    /// Make a job of a process and its children
    Process {
        #[command(flatten)]
        process: ProcessId,
        /// ID of the job [default: made up]
        #[arg(short, long, value_name = "JOB")]
        job: Option<String>,
    },
    /// Make a job of a container of runc
    Runc {
        #[command(flatten)]
        container: RuncName,
        /// ID of the job [default: the container's]
        #[arg(short, long, value_name = "JOB")]
        job: Option<String>,
    },
    /// Make a job of a container of containerd
    Containerd {
        #[command(flatten)]
        container: ContainerdName,
        /// ID of the job [default: the container's]
        #[arg(short, long, value_name = "JOB")]
        job: Option<String>,
    },
}

/// Of `cedana checkpoint delete`.
const AFTER_DELETE: &str = "\
A container's checkpoint belongs to its engine: remove it with `docker checkpoint rm`,
`ctr image rm` or `rm`, and its memory is freed after the grace time. Its entry is removed
here only if nothing refers to it any more, or with --force.";

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// List checkpoints
    #[command(visible_alias = "ls")]
    List(ListCheckpoints),
    /// Show what is in a checkpoint
    Inspect {
        /// A job, whose newest checkpoint is shown, or a checkpoint's number, ID or path
        #[arg(value_name = "CHECKPOINT")]
        checkpoint: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove checkpoints of jobs, with their files, and entries of containers' checkpoints
    #[command(visible_alias = "rm", after_help = AFTER_DELETE)]
    Delete {
        /// Numbers or IDs of checkpoints, or a job, of which all are removed
        #[arg(value_name = "CHECKPOINT", required = true)]
        checkpoints: Vec<String>,
        /// Remove also a container's checkpoint that still exists: it can't be restored then
        #[arg(short, long)]
        force: bool,
    },
    /// Write a checkpoint into one file
    Export(ExportCheckpoint),
    /// Make a job of a checkpoint in a file
    ///
    /// The file is one that `cedana checkpoint export` wrote, or Podman, CRI-O or the
    /// kubelet. `cedana restore job` restores a process, and `cedana restore runc` or
    /// `cedana-runc restore` a container from the path that is printed.
    Import(ImportCheckpoint),
    /// Keep the memory of a container's checkpoint whatever becomes of its directory
    Pin {
        #[command(flatten)]
        checkpoint: StoredCheckpoint,
    },
    /// Undo `cedana checkpoint pin`
    Unpin {
        #[command(flatten)]
        checkpoint: StoredCheckpoint,
    },
    /// Name a container's checkpoint, which keeps it like a pin
    Tag {
        #[command(flatten)]
        checkpoint: StoredCheckpoint,
        /// The name; another checkpoint that has it loses it
        #[arg(value_name = "TAG")]
        tag: String,
    },
    /// Remove a tag
    Untag {
        /// The name
        #[arg(value_name = "TAG")]
        tag: String,
    },
}

/// `checkpoint export`.
#[derive(Debug, Args)]
pub(crate) struct ExportCheckpoint {
    /// A job, whose newest checkpoint is exported, or a checkpoint's number, ID or path: of
    /// an archive, or of a directory that a runtime or Docker wrote
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) checkpoint: String,
    /// The new file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Format of the file
    #[arg(long, value_enum, default_value = "cedana")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) podman: ForPodman,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The format of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// An archive that is restored in place
    Cedana,
    /// For `podman container restore --import` and checkpointctl
    Podman,
}

/// What Podman needs, if the checkpoint does not say it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of --format podman")]
pub(crate) struct ForPodman {
    /// How the file is compressed
    #[arg(long, value_enum, default_value = "zstd")]
    pub(crate) compress: Compress,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Name of the container's image
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// ID of the image, as `podman images --no-trunc` shows it
    #[arg(long, value_name = "ID")]
    pub(crate) image_id: Option<String>,
    /// The runtime that restores it, as Podman knows it [default: the one that ran it, or
    /// runc]
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Directory with the container's config.json, for a stock runtime's checkpoint
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
}

/// How a file in Podman's format is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// As a whole
    Zstd,
    /// As a whole
    Gzip,
    /// Not at all
    None,
}

/// `checkpoint import`.
#[derive(Debug, Args)]
pub(crate) struct ImportCheckpoint {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// ID of the job [default: the file's name]
    #[arg(long, value_name = "JOB")]
    pub(crate) name: Option<String>,
    /// Directory for the checkpoint [default: the daemon's own]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Names a checkpoint whose memory is in the store.
#[derive(Debug, Args)]
pub(crate) struct StoredCheckpoint {
    /// The checkpoint's ID, or at least 8 digits of its beginning
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListCheckpoints {
    /// Those of one job [default: all, for root also those of containers]
    #[arg(value_name = "JOB")]
    pub(crate) job: Option<String>,
    /// Whose job, by name or number; for root, if several users have one of that ID
    #[arg(long, value_name = "USER", requires = "job")]
    pub(crate) user: Option<String>,
    /// Print JSON, one checkpoint a line
    #[arg(long)]
    pub(crate) json: bool,
}
