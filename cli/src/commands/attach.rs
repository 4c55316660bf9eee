//! `cedana attach`, and `cedana exec --attach`.
//!
//! ```text
//! stdin ── keys ──► daemon ──► supervisor ──► the job's terminal
//! stdout ◄───────────────────────────────────────┘
//! ```
//!
//! Ctrl-P Ctrl-Q, the end of stdin, or a kill of this process detach; the job goes on. If
//! the daemon is killed, the command ends with an error, and the job goes on, too.

use std::io::{self, IsTerminal};

use cedana_api::v1::attach_job_request::Message as Ask;
use cedana_api::v1::attach_job_response::Message as Told;
use cedana_api::v1::{AttachJobRequest, AttachStart, GetJobRequest, Job, JobState, WaitJobRequest};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::terminal::{self, Raw};
use super::{Context, Outcome, job_of, job_ref, logs};
use crate::args::JobName;
use crate::connection::Daemon;
use crate::error::{Error, Result};
use crate::output::{status, to_stderr, to_stdout};

/// Ctrl-P, Ctrl-Q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Connects to a job.
///
/// # Errors
/// There is no such job, or it has ended.
pub(crate) async fn run(context: &Context, name: &JobName) -> Result<Outcome> {
    let job = Some(job_ref(name)?);
    let daemon = context.daemon().await?;
    let job = job_of(
        daemon
            .jobs()
            .get_job(GetJobRequest { job })
            .await?
            .into_inner()
            .job,
    )?;
    if matches!(
        job.state(),
        JobState::Ended | JobState::Lost | JobState::Checkpointed | JobState::Gone
    ) {
        return Err(Error::Other(format!(
            "job {0} has ended ({1}); `cedana logs {0}` shows what it wrote",
            job.id,
            status::status(&job)
        )));
    }
    to(&daemon, job, false).await
}

/// Connects to a job that was found; `from_start` shows all that it has written.
///
/// # Errors
/// The connection broke.
pub(super) async fn to(daemon: &Daemon, job: Job, from_start: bool) -> Result<Outcome> {
    if job.terminal {
        at_terminal(daemon, &job).await
    } else {
        output_alone(daemon, &job, from_start).await
    }
}

/// Without a terminal there is nothing to type. Ctrl-C detaches.
async fn output_alone(daemon: &Daemon, job: &Job, from_start: bool) -> Result<Outcome> {
    let lines = (!from_start).then_some(0);
    let mut interrupt = handle(SignalKind::interrupt())?;
    tokio::select! {
        shown = logs::show(daemon, job, true, lines) => shown?,
        _ = interrupt.recv() => {
            detached(job);
            return Ok(Outcome::Done);
        }
    }
    let request = WaitJobRequest {
        job: logs::exact(job),
    };
    let ended = job_of(daemon.jobs().wait_job(request).await?.into_inner().job)?;
    Ok(Outcome::Exit(status::exit_code(&ended)))
}

async fn at_terminal(daemon: &Daemon, job: &Job) -> Result<Outcome> {
    let (ask, asked) = mpsc::channel(16);
    let start = AttachStart {
        job: logs::exact(job),
        size: Some(terminal::size()),
    };
    // The queue is empty.
    let _ = ask.send(request(Ask::Start(start))).await;
    let mut told = daemon
        .jobs()
        .attach_job(ReceiverStream::new(asked))
        .await?
        .into_inner();
    let raw = Raw::enter()?;
    if raw.is_terminal() {
        to_stderr(&format!(
            "attached to job {}; detach with Ctrl-P Ctrl-Q\r\n",
            job.id
        ));
    }
    let show = async {
        while let Some(message) = told.message().await? {
            match message.message {
                Some(Told::Output(output)) => to_stdout(output),
                Some(Told::Ended(job)) => return Ok(Outcome::Exit(status::exit_code(&job))),
                None => {}
            }
        }
        Err(Error::Other(format!(
            "the daemon has closed the connection; job {0} goes on, `cedana attach {0}` connects again",
            job.id
        )))
    };
    let outcome = tokio::select! {
        shown = show => shown,
        typed = pass_keys(ask) => typed.map(|()| {
            drop(raw);
            detached(job);
            Outcome::Done
        }),
    };
    outcome
}

fn detached(job: &Job) {
    to_stderr(&format!(
        "\ndetached; job {0} goes on: `cedana attach {0}` connects again, `cedana kill {0}` ends it\n",
        job.id
    ));
}

/// Sends keys and sizes. Returns when the user detaches.
async fn pass_keys(ask: mpsc::Sender<AttachJobRequest>) -> Result<()> {
    let mut resized = handle(SignalKind::window_change())?;
    let mut stdin = tokio::io::stdin();
    let mut keys = Keys::default();
    let mut buffer = [0; 4096];
    loop {
        let message = tokio::select! {
            _ = resized.recv() => Ask::Resize(terminal::size()),
            read = stdin.read(&mut buffer) => match read {
                // The output is still shown, as for `echo exit | cedana attach shell`.
                Ok(0) if !io::stdin().is_terminal() => return std::future::pending().await,
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => match keys.pass(&buffer[..n]) {
                    Pressed::Detach => return Ok(()),
                    Pressed::Keys(keys) => Ask::Input(keys),
                },
            },
        };
        if ask.send(request(message)).await.is_err() {
            // The other half learns why.
            return std::future::pending().await;
        }
    }
}

fn request(message: Ask) -> AttachJobRequest {
    AttachJobRequest {
        message: Some(message),
    }
}

fn handle(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|error| Error::other("handle a signal", error))
}

/// Looks for the keys that detach. The first of them is held back until the next key.
#[derive(Debug, Default)]
struct Keys {
    held: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Pressed {
    Detach,
    Keys(Vec<u8>),
}

impl Keys {
    fn pass(&mut self, bytes: &[u8]) -> Pressed {
        let mut passed = Vec::new();
        for byte in bytes {
            if std::mem::take(&mut self.held) {
                if *byte == DETACH[1] {
                    return Pressed::Detach;
                }
                passed.push(DETACH[0]);
            }
            match *byte == DETACH[0] {
                true => self.held = true,
                false => passed.push(*byte),
            }
        }
        Pressed::Keys(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_detach_even_if_they_come_apart() {
        let mut keys = Keys::default();
        assert_eq!(keys.pass(b"a\x10"), Pressed::Keys(b"a".to_vec()));
        assert_eq!(
            keys.pass(b"b\x10\x10"),
            Pressed::Keys(b"\x10b\x10".to_vec())
        );
        assert_eq!(keys.pass(b"\x11"), Pressed::Detach);
        assert_eq!(keys.pass(b"\x11"), Pressed::Keys(b"\x11".to_vec()));
    }
}
