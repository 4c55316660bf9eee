//! The commands of jobs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs
    #[command(visible_alias = "ls")]
    List(List),
    /// Show everything about a job
    Inspect(Inspect),
    /// Send a signal to all processes of a job's process group
    Kill(Kill),
    /// Remove a job that has ended, with its output
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Connect to a job's terminal; without one, show what the job writes
    Attach(Attach),
    /// Show what a job has written
    Logs(Logs),
    /// Wait until a job has ended, and exit like its program
    Wait(Wait),
}

/// What names a job.
#[derive(Debug, Args)]
pub(crate) struct JobName {
    /// The job
    #[arg(value_name = "JOB")]
    pub(crate) id: String,
    /// Whose job, by name or number; for root, if several users have one of that ID
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "cedana exec [OPTIONS] 'COMMAND' [ID]\n       cedana exec [OPTIONS] [ID] -- PROGRAM [ARGUMENT]...",
    after_help = "Examples:\n  cedana exec 'python3 example.py' example_job\n  cedana exec -t -a shell -- bash\n\nThe job gets HOME, USER, LOGNAME, SHELL and PATH of a login, and what -e and --env-file\ngive; it inherits nothing else. Without -t it reads nothing (/dev/null), and what it\nwrites is kept for `cedana logs`."
)]
pub(crate) struct Exec {
    /// One string, run by /bin/sh, and the job's ID
    #[arg(value_name = "COMMAND", num_args = 0..=2)]
    pub(crate) positional: Vec<OsString>,
    /// Program and arguments, as they are
    #[arg(last = true, value_name = "PROGRAM")]
    pub(crate) words: Vec<OsString>,
    /// Working directory [default: the current one]
    #[arg(short = 'w', long = "working-dir", value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Set a variable; without =VALUE it is taken from your environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,
    /// Read variables from a file: a line each, NAME=VALUE; # begins a comment line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Append what the job writes to a file, which is opened with your rights
    #[arg(long, value_name = "FILE", conflicts_with = "terminal")]
    pub(crate) log: Option<PathBuf>,
    /// Run on a terminal
    #[arg(short, long)]
    pub(crate) terminal: bool,
    /// Stay connected, and exit like the program
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// When to start the program again
    #[arg(long, value_enum, default_value_t = Restart::Never)]
    pub(crate) restart: Restart,
}

/// When a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    /// Never
    Never,
    /// After an exit code other than 0, or a signal
    OnFailure,
    /// Whenever it ends; `cedana kill` ends it
    Always,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Also jobs that have ended and have no checkpoint
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print JSON, one job a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the list again after each change
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) job: JobName,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    #[command(flatten)]
    pub(crate) job: JobName,
    /// The signal, by name or number
    #[arg(short, long, default_value = "TERM")]
    pub(crate) signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) job: JobName,
    /// Kill the job if it runs
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    pub(crate) job: JobName,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) job: JobName,
    /// Go on until the job has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with the last lines
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(crate) lines: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    pub(crate) job: JobName,
}
