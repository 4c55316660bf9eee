//! Keeps CRIU from killing the container before its checkpoint is stored.
//!
//! If a checkpoint ends its container, CRIU kills the processes as soon as it has
//! written its images. A failure to store them would then lose both. Before CRIU
//! kills, it runs its action scripts with `post-dump`, and it resumes the processes
//! if a script fails (criu/cr-dump.c, `cr_dump_finish`). This program is such a
//! script:
//!
//! ```text
//! cedana-runc checkpoint ── runc ── CRIU ── post-dump: cedana-runc, as a script
//!        ▲  │                                              │     ▲
//!        │  └────────── verdict: a byte, or EOF ───────────┼─────┘
//!        └───────────────────── question: a byte ──────────┘
//!   stores, syncs, publishes in between
//! ```
//!
//! The script opens the two pipes through our entry in /proc, since neither runtime
//! passes descriptors on. If we are killed, the script reads EOF, and CRIU resumes the
//! processes.
//!
//! Since CRIU 3.19, action scripts of a configuration file run in addition to the
//! runtime's own notifications; an older CRIU would abort.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use cedana_checkpoint::criu::Version;

use super::action_script;

use crate::host::procfs;

/// The environment variable with the script's pipes, as `QUESTION:VERDICT`.
const VARIABLE: &str = "CEDANA_DUMP_GATE";

/// The pipes to the script.
pub(crate) struct PostDump {
    question: (PipeReader, PipeWriter),
    verdict: (PipeReader, Cell<Option<PipeWriter>>),
}

impl PostDump {
    /// The pipes for a script of this CRIU; `None` if this CRIU would not run it.
    pub(crate) fn new(criu: Version) -> io::Result<Option<Self>> {
        if !action_script::is_run_by(criu) {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        Ok(Some(Self {
            question: io::pipe()?,
            verdict: (reader, Cell::new(Some(writer))),
        }))
    }

    /// The environment variable that names the pipes.
    pub(crate) fn variable(&self) -> (&'static str, OsString) {
        let question = procfs::descriptor(&self.question.1);
        let verdict = procfs::descriptor(&self.verdict.0);
        let value = format!("{}:{}", question.display(), verdict.display());
        (VARIABLE, value.into())
    }

    /// Readable once CRIU runs the script.
    pub(crate) fn question(&self) -> BorrowedFd<'_> {
        self.question.0.as_fd()
    }

    /// Lets CRIU kill the processes if `kill`, or else resume them. Only the first call
    /// counts; without a call CRIU resumes them.
    pub(crate) fn answer(&self, kill: bool) {
        if let Some(mut verdict) = self.verdict.1.take()
            && kill
        {
            // It can't block or fail: the pipe is empty, and we hold its reading end.
            let _ = verdict.write_all(&[1]);
        }
    }
}

/// Runs the script and returns its exit code; `None` if CRIU has not started this
/// process.
pub(crate) fn run_as_script() -> Option<ExitCode> {
    let (step, pipes) = action_script::step(VARIABLE)?;
    let pipes = pipes.into_string().ok()?;
    if step != "post-dump" {
        return Some(ExitCode::SUCCESS);
    }
    Some(match wait(&pipes) {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Writes the question and waits for the verdict.
fn wait(pipes: &str) -> io::Result<bool> {
    let (question, verdict) = pipes.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    // Opened before the question: the pipe may be closed right after the verdict.
    let mut verdict = File::open(verdict)?;
    action_script::notify(question)?;
    Ok(verdict.read(&mut [0])? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const OLD: Version = Version::MINIMUM;
    const NEW: Version = Version {
        major: 3,
        minor: 19,
        sublevel: 0,
    };

    fn run_script(post_dump: &PostDump) -> thread::JoinHandle<bool> {
        let pipes = post_dump.variable().1.into_string().expect("text");
        thread::spawn(move || wait(&pipes).expect("pipes"))
    }

    #[test]
    fn criu_waits_for_the_verdict() {
        assert!(PostDump::new(OLD).expect("pipes").is_none());
        for kill in [true, false] {
            let post_dump = PostDump::new(NEW).expect("pipes").expect("new enough");
            let script = run_script(&post_dump);
            let mut byte = [0];
            (&post_dump.question.0)
                .read_exact(&mut byte)
                .expect("asked");
            post_dump.answer(kill);
            post_dump.answer(true);
            assert_eq!(script.join().expect("script"), kill);
        }
    }

    #[test]
    fn without_an_answer_the_container_is_resumed() {
        let post_dump = PostDump::new(NEW).expect("pipes").expect("new enough");
        post_dump.answer(false);
        assert!(!run_script(&post_dump).join().expect("script"));
        let pipes = post_dump.variable().1.into_string().expect("text");
        drop(post_dump);
        assert!(wait(&pipes).is_err());
    }
}
