//! The command line.
//!
//! A command that the original has below `client` is also there.

mod checkpoint;
mod job;
mod store;

use clap::{Args, Parser, Subcommand};

pub(crate) use checkpoint::{
    Check, CheckpointCommand, Compress, Compression, ContainerdName, ContainerdPlace, Dump,
    DumpOptions, DumpPlace, ExportCheckpoint, ForPodman, Format, ImportCheckpoint, ListCheckpoints,
    Manage, Restore, RestoreOptions, RestoreRunc, RestoreWhat, RuncName, StoredCheckpoint, Subject,
};
pub(crate) use job::{
    Attach, Delete, Exec, Inspect, JobCommand, JobName, Kill, List, Logs, Restart, Wait,
};
pub(crate) use store::{StoreCheck, StoreCommand, StoreGc};

const GROUPS: &str = "\
Jobs:
  exec        Start a program as a job
  ps          List jobs (also: jobs, job list)
  attach      Connect to a job's terminal
  logs        Show what a job has written
  wait        Wait until a job has ended
  kill        Send a signal to a job
  job         All commands of jobs: list, inspect, kill, delete, attach, logs, wait

Checkpoints:
  dump        Write a checkpoint of a job, a process or a container
  restore     Restore one
  checkpoint  List, inspect, delete, export and import checkpoints (also: checkpoints)
  check       Check this machine, or what would stop a checkpoint
  freeze      Stop a job, a process or a container
  unfreeze    Let it run again
  manage      Make a job of what runs already

Setup:
  daemon      Start the daemon, or ask whether it runs
  bootstrap   Write ~/.cedana/cedana_config.json
  config      Show the settings
  store       Check, measure and clean up the memory that checkpoints share
  completions Print the completions of a shell
  help        Describe a command

Commands that the daemon carries out may also be written after `client`.";

const AFTER: &str = "\
Exit codes:
  0    success
  1    the command failed
  2    the command line is wrong
  3    the daemon does not answer
  125  attach, wait and exec --attach failed; else they exit like the program:
       with its code, or with 128 and the number of the signal that ended it

The daemon must run: sudo cedana daemon start";

/// Checkpoint and restore of processes and containers
#[derive(Debug, Parser)]
#[command(
    name = "cedana",
    version,
    after_help = AFTER,
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}",
    before_help = GROUPS,
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Where the daemon listens: the path of its socket, or IP:PORT [default: the setting
    /// daemon.socket]
    #[arg(long = "daemon", global = true, value_name = "ADDRESS")]
    pub(crate) daemon: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the daemon, or ask whether it runs
    #[command(subcommand)]
    Daemon(DaemonCommand),
    #[command(flatten)]
    Client(ClientCommand),
    /// The same commands, after the word `client`
    #[command(name = "client", subcommand)]
    Prefixed(ClientCommand),
    /// Write ~/.cedana/cedana_config.json, with every key that a user may set
    Bootstrap {
        /// Replace a file that exists
        #[arg(long)]
        force: bool,
    },
    /// Show the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check, measure and clean up the memory that checkpoints share
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print the completions of a shell, for its startup file
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        directory: std::path::PathBuf,
    },
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Shell {
    /// For ~/.bashrc: source <(cedana completions bash)
    Bash,
    /// For a directory of $fpath, as _cedana
    Zsh,
    /// For ~/.config/fish/completions/cedana.fish
    Fish,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Start the daemon, in the foreground
    Start(DaemonStart),
    /// Ask the daemon for its version
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonStart {
    /// The unix socket [default: the setting daemon.socket]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<std::path::PathBuf>,
    /// The TCP address, IP:PORT, or `off` [default: the setting daemon.tcp]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) tcp: Option<String>,
    /// Directory of the database, the jobs and the token
    #[arg(long, value_name = "DIR", default_value = cedana_api::places::STATE_DIR)]
    pub(crate) state_dir: std::path::PathBuf,
    /// Directory of running jobs
    #[arg(long, value_name = "DIR", default_value = cedana_api::places::RUN_DIR)]
    pub(crate) run_dir: std::path::PathBuf,
    /// Log details
    #[arg(long)]
    pub(crate) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each setting with its value and where that comes from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The commands that the daemon carries out.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Start a program as a job
    Exec(Exec),
    /// List jobs
    #[command(visible_alias = "jobs")]
    Ps(List),
    /// Connect to a job's terminal; without one, show what the job writes
    Attach(Attach),
    /// Show what a job has written
    Logs(Logs),
    /// Wait until a job has ended, and exit like its program
    Wait(Wait),
    /// Send a signal to all processes of a job's process group
    Kill(Kill),
    /// All commands of jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// Write a checkpoint
    #[command(subcommand)]
    Dump(Dump),
    /// Restore a checkpoint; without a kind, a container by runc
    Restore(Restore),
    /// List, inspect and delete checkpoints
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// List checkpoints
    #[command(hide = true)]
    Checkpoints(ListCheckpoints),
    /// Check this machine, or say what would stop a checkpoint
    Check(Check),
    /// Stop all processes of a job, a process or a container, until they are unfrozen
    #[command(subcommand)]
    Freeze(Subject),
    /// Let a frozen job, process or container run
    #[command(subcommand)]
    Unfreeze(Subject),
    /// Make a job of what runs already
    #[command(subcommand)]
    Manage(Manage),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_a_group() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let name = command.get_name();
            let described = GROUPS
                .lines()
                .any(|l| l.trim_start().split(' ').next() == Some(name));
            assert!(described || name == "client", "{name}");
        }
    }

    #[test]
    fn the_seeds_lines_are_understood() {
        for line in [
            &["daemon", "start"][..],
            &["bootstrap"],
            &["exec", "python3 example.py", "example_job"],
            &["ps"],
            &["client", "ps"],
            &["job", "list"],
            &["jobs"],
            &["client", "job", "kill", "example_job"],
            &["client", "dump", "job", "JOBID", "-d", "DIR"],
            &["client", "restore", "job", "JOBID"],
            &["dump", "containerd", "-i", "test", "-p", "test"],
            &[
                "dump",
                "containerd",
                "-i",
                "test",
                "test",
                "--address",
                "/a",
                "--namespace",
                "b",
            ],
            &["dump", "runc", "-i", "runcID", "-d", "DIRECTORY"],
            &[
                "restore",
                "--bundle",
                "container_bundle.tar",
                "-i",
                "new_runc_id",
                "-d",
                "DIRECTORY",
            ],
            &[
                "restore", "runc", "--bundle", "B", "-i", "NEWID", "-p", "PATH",
            ],
            &["restore", "process", "-p", "PATH", "--attach"],
            &["checkpoints", "JOBID"],
            &["check"],
            &["check", "runc", "ID", "--json"],
        ] {
            let words = [&["cedana"], line].concat();
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line:?}: {error}");
            }
        }
    }
}
