//! `cedana`: the command line of the daemon and its jobs.
//!
//! ```text
//! cedana daemon start ──► the daemon (cedana-daemon), in this process
//! cedana COMMAND ── gRPC ──► the daemon
//! cedana --cedana-... ──► a helper of the daemon, in this process: a job's supervisor, a
//!                         worker, or a helper of the engine
//! ```
//!
//! ```text
//! commands    one module for each command
//! connection  to the daemon
//! output      tables, units, terminals
//! args        the command line
//! ```

mod args;
mod commands;
mod connection;
mod error;
mod output;

use std::process::ExitCode;

use clap::Parser;

use args::{
    CheckpointCommand, Cli, ClientCommand, Command, ConfigCommand, DaemonCommand, JobCommand,
};
use commands::{Context, Outcome};
use error::Error;

fn main() -> ExitCode {
    // First, because a supervisor must need little memory.
    if let Some(code) = cedana_daemon::run_if_helper() {
        return code;
    }
    let Cli { globals, command } = Cli::parse();
    match run(Context::new(globals), command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Exit(code)) => ExitCode::from(code),
        Err(failure) => {
            output::to_stderr(&format!("cedana: {}\n", failure.error));
            ExitCode::from(failure.code)
        }
    }
}

/// A failed command and its exit code.
struct Failure {
    error: Error,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            error,
        }
    }
}

/// The failure of a command that exits like a program.
fn like_a_program(error: Error) -> Failure {
    Failure { error, code: 125 }
}

fn run(context: Context, command: Command) -> Result<Outcome, Failure> {
    let done = match command {
        Command::Daemon(DaemonCommand::Start(options)) => commands::daemon::start(options),
        Command::Daemon(DaemonCommand::Status) => {
            context.block_on(commands::daemon::status(&context))
        }
        Command::Client(command) | Command::Prefixed(command) => return client(&context, command),
        Command::Bootstrap { force } => commands::config::bootstrap(force),
        Command::Config(ConfigCommand::Show { json }) => commands::config::show(json),
        Command::Store(command) => {
            return commands::store::run(&context, command).map_err(Failure::from);
        }
        Command::Completions { shell } => commands::completions::print(shell),
        Command::Man { directory } => commands::man::write(&directory),
    };
    done.map(|()| Outcome::Done).map_err(Failure::from)
}

fn client(context: &Context, command: ClientCommand) -> Result<Outcome, Failure> {
    use commands::{checkpoint, containers, freeze, job, transfer};
    let done = match command {
        ClientCommand::Exec(exec) => {
            let failure = if exec.attach {
                like_a_program
            } else {
                Failure::from
            };
            return context
                .block_on(commands::exec::run(context, exec))
                .map_err(failure);
        }
        ClientCommand::Ps(list) | ClientCommand::Job(JobCommand::List(list)) => {
            context.block_on(commands::list::run(context, list))
        }
        ClientCommand::Attach(attach) | ClientCommand::Job(JobCommand::Attach(attach)) => {
            return context
                .block_on(commands::attach::run(context, &attach.job))
                .map_err(like_a_program);
        }
        ClientCommand::Wait(wait) | ClientCommand::Job(JobCommand::Wait(wait)) => {
            return context
                .block_on(job::wait(context, &wait.job))
                .map_err(like_a_program);
        }
        ClientCommand::Logs(logs) | ClientCommand::Job(JobCommand::Logs(logs)) => {
            context.block_on(commands::logs::run(context, logs))
        }
        ClientCommand::Kill(kill) | ClientCommand::Job(JobCommand::Kill(kill)) => {
            context.block_on(job::kill(context, kill))
        }
        ClientCommand::Job(JobCommand::Delete(delete)) => {
            context.block_on(job::delete(context, delete))
        }
        ClientCommand::Job(JobCommand::Inspect(inspect)) => {
            context.block_on(commands::inspect::run(context, inspect))
        }
        ClientCommand::Dump(dump) => context.block_on(commands::dump::run(context, dump)),
        ClientCommand::Restore(restore) => {
            let failure = match commands::restore::attaches(&restore) {
                true => like_a_program,
                false => Failure::from,
            };
            return context
                .block_on(commands::restore::run(context, restore))
                .map_err(failure);
        }
        ClientCommand::Checkpoints(list)
        | ClientCommand::Checkpoint(CheckpointCommand::List(list)) => {
            context.block_on(checkpoint::list(context, list))
        }
        ClientCommand::Checkpoint(CheckpointCommand::Inspect {
            checkpoint: name,
            json,
        }) => context.block_on(checkpoint::inspect(context, &name, json)),
        ClientCommand::Checkpoint(CheckpointCommand::Delete { checkpoints, force }) => {
            context.block_on(checkpoint::delete(context, checkpoints, force))
        }
        ClientCommand::Checkpoint(CheckpointCommand::Export(export)) => {
            context.block_on(transfer::export(context, export))
        }
        ClientCommand::Checkpoint(CheckpointCommand::Import(import)) => {
            context.block_on(transfer::import(context, import))
        }
        ClientCommand::Checkpoint(CheckpointCommand::Pin { checkpoint }) => {
            containers::pin(&checkpoint, true)
        }
        ClientCommand::Checkpoint(CheckpointCommand::Unpin { checkpoint }) => {
            containers::pin(&checkpoint, false)
        }
        ClientCommand::Checkpoint(CheckpointCommand::Tag { checkpoint, tag }) => {
            containers::tag(&checkpoint, &tag)
        }
        ClientCommand::Checkpoint(CheckpointCommand::Untag { tag }) => containers::untag(&tag),
        ClientCommand::Check(check) => {
            return context
                .block_on(commands::check::run(context, check))
                .map_err(Failure::from);
        }
        ClientCommand::Freeze(what) => context.block_on(freeze::freeze(context, what)),
        ClientCommand::Unfreeze(what) => context.block_on(freeze::unfreeze(context, what)),
        ClientCommand::Manage(what) => context.block_on(freeze::manage(context, what)),
    };
    done.map(|()| Outcome::Done).map_err(Failure::from)
}
