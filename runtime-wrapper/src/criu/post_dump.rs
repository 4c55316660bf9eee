//! Nobody's last processes are killed before their checkpoint is on disk.
//!
//! When a checkpoint is to end its container, CRIU kills the processes as soon
//! as it has written its images. Should storing them fail after that, there
//! would be neither. CRIU has a hook for this: before it decides, it runs its
//! action scripts with `post-dump`, and lets the processes go on if one fails
//! (criu/cr-dump.c, `cr_dump_finish`). So we are such a script:
//!
//! ```text
//! cedana-runc checkpoint ── runc ── CRIU ── post-dump: cedana-runc, as a script
//!        ▲  │                                              │     ▲
//!        │  └────────── verdict: a byte, or the end ───────┼─────┘
//!        └───────────────────── question: a byte ──────────┘
//!   stores, syncs, publishes in between
//! ```
//!
//! The two pipes are opened through our entry in /proc, since neither runtime
//! hands descriptors down. If we die, the script reads the end of the pipe, and
//! the processes go on.
//!
//! Action scripts of a configuration file are run beside the runtime's own
//! notifications since CRIU 3.19; an older one would abort.

use std::cell::Cell;
use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use cedana_checkpoint::criu::Version;

/// Names the pipes to the script, as `QUESTION:VERDICT`.
const VARIABLE: &str = "CEDANA_DUMP_GATE";

/// By which CRIU tells a script what happened (criu/action-scripts.c).
const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";

/// The first CRIU that can be asked to wait.
const SINCE: Version = Version {
    major: 3,
    minor: 19,
    sublevel: 0,
};

/// What CRIU waits at.
pub(crate) struct Gate {
    question: (PipeReader, PipeWriter),
    verdict: (PipeReader, Cell<Option<PipeWriter>>),
}

impl Gate {
    /// A gate for this CRIU; nothing if it wouldn't stop at one.
    pub(crate) fn new(criu: Version) -> io::Result<Option<Self>> {
        if criu < SINCE {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        Ok(Some(Self {
            question: io::pipe()?,
            verdict: (reader, Cell::new(Some(writer))),
        }))
    }

    /// The script for CRIU's configuration: ourselves, whatever our path.
    pub(crate) fn script() -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", std::process::id()))
    }

    /// The environment variable by which the script finds us.
    pub(crate) fn variable(&self) -> (&'static str, OsString) {
        let ours = std::process::id();
        let question = self.question.1.as_raw_fd();
        let verdict = self.verdict.0.as_raw_fd();
        let value = format!("/proc/{ours}/fd/{question}:/proc/{ours}/fd/{verdict}");
        (VARIABLE, value.into())
    }

    /// Readable once CRIU is there.
    pub(crate) fn question(&self) -> BorrowedFd<'_> {
        self.question.0.as_fd()
    }

    /// Lets CRIU do what it is to do, or have the processes go on. Without a
    /// call it is the latter. Only the first counts.
    pub(crate) fn answer(&self, go_ahead: bool) {
        if let Some(mut verdict) = self.verdict.1.take()
            && go_ahead
        {
            // It can't block or fail: the pipe is empty, and we hold its end.
            let _ = verdict.write_all(&[1]);
        }
    }
}

/// Whether CRIU has started this process as its script, and if so the end of it.
pub(crate) fn asked_by_criu() -> Option<ExitCode> {
    let action = env::var_os(ACTION)?;
    let pipes = env::var(VARIABLE).ok()?;
    if action != "post-dump" {
        return Some(ExitCode::SUCCESS);
    }
    Some(match wait(&pipes) {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Asks and waits for the verdict.
fn wait(pipes: &str) -> io::Result<bool> {
    let (question, verdict) = pipes.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    // Open before the question is asked, or the verdict could be gone.
    let mut verdict = File::open(verdict)?;
    OpenOptions::new()
        .write(true)
        .open(question)?
        .write_all(&[1])?;
    Ok(verdict.read(&mut [0])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const FIT: Version = Version::MINIMUM;

    fn ask(gate: &Gate) -> thread::JoinHandle<bool> {
        let pipes = gate.variable().1.into_string().expect("text");
        thread::spawn(move || wait(&pipes).expect("pipes"))
    }

    #[test]
    fn criu_waits_for_the_verdict() {
        assert!(Gate::new(FIT).expect("pipes").is_none());
        for go_ahead in [true, false] {
            let gate = Gate::new(SINCE).expect("pipes").expect("new enough");
            let script = ask(&gate);
            let mut byte = [0];
            (&gate.question.0).read_exact(&mut byte).expect("asked");
            gate.answer(go_ahead);
            gate.answer(true);
            assert_eq!(script.join().expect("script"), go_ahead);
        }
    }

    #[test]
    fn no_answer_is_no() {
        let gate = Gate::new(SINCE).expect("pipes").expect("new enough");
        gate.answer(false);
        assert!(!ask(&gate).join().expect("script"));
        let pipes = gate.variable().1.into_string().expect("text");
        drop(gate);
        assert!(wait(&pipes).is_err());
    }
}
