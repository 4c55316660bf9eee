//! A job's supervisor: the process that starts a job's program, holds its terminal,
//! reaps it, keeps its exit status, and starts it again if the job's policy says so.
//!
//! ```text
//! daemon ── spawns ──► supervisor ── forks ──► program
//!    ▲                  │  ▲  │                  │
//!    └──── socket ──────┘  │  └── exit.json      │ output.log, or a terminal whose
//!                          └── terminal ─────────┘ output the supervisor appends to it
//! ```
//!
//! It is the binary `cedana` itself, started as `cedana --cedana-supervise STATE RUN`
//! before anything of the command line or of the daemon is set up: one thread, one poll
//! loop, no runtime, so that a thousand jobs need little memory.
//!
//! - The daemon exits or is killed: nothing changes. The next daemon connects again.
//! - The supervisor is killed: the daemon, or the next one, kills the program and what it
//!   has started, and marks the job as lost.
//! - A checkpoint ends the program: the job has ended, and can be restored.
//! - The program ends: the supervisor kills what it has left behind, writes `exit.json`,
//!   tells its clients, removes its directory in /run, and exits.

mod backoff;
mod child;
mod clients;
mod descendants;
mod dumping;
mod lifecycle;
mod program;
pub mod protocol;
mod restored;
mod state;
mod supervise;
mod sys;

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub use descendants::Stat;
pub(crate) use descendants::{is_page_source, is_supervisor};

use crate::job::files::JobFiles;
use protocol::Started;

/// The first argument of a supervisor.
pub const FLAG: &str = "--cedana-supervise";

/// Runs the supervisor if this process was started as one.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != FLAG {
        return None;
    }
    let (Some(state), Some(run)) = (args.next(), args.next()) else {
        report(&Started::Failed(format!("{FLAG} needs two directories")));
        return Some(ExitCode::FAILURE);
    };
    let files = JobFiles {
        state: PathBuf::from(state),
        run: PathBuf::from(run),
    };
    Some(match supervise::supervise(files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // What was restored, if it was not the restore that failed.
            descendants::clear();
            report(&why);
            ExitCode::FAILURE
        }
    })
}

/// Tells the daemon how the start went.
fn report(started: &Started) {
    let mut line = serde_json::to_vec(started).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    // A daemon that was killed meanwhile finds the job by its socket.
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
}
