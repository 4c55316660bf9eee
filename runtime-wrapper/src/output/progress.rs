//! How far a checkpoint is: a line on a terminal, and JSON lines for a program.
//!
//! The engine's threads tell it ([`Progress::observer`]) and must not be held
//! up: a terminal that was stopped, or a reader that doesn't read, is looked at
//! before each write and passed over. Lines are whole and short, so a pipe takes
//! one or none of it.
//!
//! The terminal's line is on stderr, is written over by the next, and is wiped
//! when the checkpoint is done, before anything else is said there.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cedana_checkpoint::progress::{self, Observer, Phase};
use cedana_contract::progress as contract;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::sys;
use crate::output::units::bytes;

/// How often a line is written. More than an eye can follow is of no use.
const INTERVAL: Duration = Duration::from_millis(100);

/// A descriptor that can't be written to.
#[derive(Debug, thiserror::Error)]
#[error("--progress-fd {fd} is not open for us to write to: {source}")]
pub(crate) struct BadDescriptor {
    fd: i32,
    source: io::Error,
}

/// Shows how far a checkpoint is, until it is dropped.
pub(crate) struct Progress(Arc<Mutex<Shown>>);

struct Shown {
    begin: Instant,
    last: Option<(Instant, progress::Progress)>,
    terminal: Option<io::Stderr>,
    /// What `--progress-fd` named.
    program: Option<File>,
}

impl Progress {
    /// Finds out who wants to know.
    ///
    /// # Errors
    /// `--progress-fd` names no open descriptor.
    pub(crate) fn new(fd: Option<i32>) -> Result<Self, BadDescriptor> {
        let program = match fd {
            None => None,
            Some(fd) => {
                let program = sys::take_fd(fd).map_err(|source| BadDescriptor { fd, source })?;
                Some(File::from(program))
            }
        };
        let stderr = io::stderr();
        let terminal = stderr.is_terminal().then_some(stderr);
        Ok(Self::to(terminal, program))
    }

    fn to(terminal: Option<io::Stderr>, program: Option<File>) -> Self {
        Self(Arc::new(Mutex::new(Shown {
            begin: Instant::now(),
            last: None,
            terminal,
            program,
        })))
    }

    /// What the engine is to tell.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        let shown = Arc::clone(&self.0);
        Arc::new(move |progress| {
            shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .tell(progress, Instant::now());
        })
    }

    /// The checkpoint is complete.
    pub(crate) fn done(self) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shown.last.map(|(_, progress)| progress);
        shown.tell_program(contract::Phase::Done, last, Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.wipe();
        // A thread of the engine that still tells is not heard any more.
        shown.terminal = None;
        shown.program = None;
    }
}

impl Shown {
    fn tell(&mut self, progress: progress::Progress, now: Instant) {
        let news = match self.last {
            None => true,
            Some((at, last)) => {
                last.phase != progress.phase || now.saturating_duration_since(at) >= INTERVAL
            }
        };
        if !news {
            // What it is in the end is told in any case.
            if let Some((_, last)) = &mut self.last {
                *last = progress;
            }
            return;
        }
        self.last = Some((now, progress));
        self.tell_program(name(progress.phase), Some(progress), now);
        if let Some(terminal) = &mut self.terminal
            && takes(terminal)
        {
            // A terminal that is gone is nobody's loss.
            let _ = write!(terminal, "\r{}\x1b[K", line(progress));
        }
    }

    fn tell_program(
        &mut self,
        phase: contract::Phase,
        progress: Option<progress::Progress>,
        now: Instant,
    ) {
        let Some(program) = &mut self.program else {
            return;
        };
        if !takes(program) {
            return;
        }
        let elapsed = now.saturating_duration_since(self.begin).as_micros();
        let (raw, done, stored) = progress.map_or((0, 0, 0), |p| (p.raw, p.done, p.stored));
        let message = contract::Message {
            phase,
            elapsed_us: u64::try_from(elapsed).unwrap_or(u64::MAX),
            raw_bytes: raw,
            done_bytes: done,
            stored_bytes: stored,
        };
        let written = serde_json::to_string(&message)
            .map_err(io::Error::from)
            .and_then(|line| program.write_all(format!("{line}\n").as_bytes()));
        if written.is_err() {
            // The reader has gone, which is its own business.
            self.program = None;
        }
    }

    fn wipe(&mut self) {
        if self.last.is_some()
            && let Some(terminal) = &mut self.terminal
            && takes(terminal)
        {
            let _ = write!(terminal, "\r\x1b[K");
        }
    }
}

/// Whether a line can be written without waiting.
fn takes(to: &impl AsFd) -> bool {
    let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    // What is broken is told by the write.
    matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1))
}

fn name(phase: Phase) -> contract::Phase {
    match phase {
        Phase::Dump => contract::Phase::Dump,
        Phase::Compress => contract::Phase::Compress,
        Phase::Sync => contract::Phase::Sync,
    }
}

/// Fits into eighty columns: what wraps can't be written over.
fn line(progress: progress::Progress) -> String {
    let what = match progress.phase {
        Phase::Dump => "CRIU is writing",
        Phase::Compress => "compressing",
        Phase::Sync => "bringing to disk",
    };
    format!(
        "{what}: {} of memory, {} done, {} stored",
        bytes(progress.raw),
        bytes(progress.done),
        bytes(progress.stored)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn at(phase: Phase, raw: u64) -> progress::Progress {
        progress::Progress {
            phase,
            raw,
            done: raw / 2,
            stored: raw / 4,
        }
    }

    fn pipe() -> (io::PipeReader, File) {
        let (reader, writer) = io::pipe().expect("pipe");
        (reader, File::from(std::os::fd::OwnedFd::from(writer)))
    }

    #[test]
    fn a_program_reads_json_lines() {
        let (mut reader, writer) = pipe();
        let progress = Progress::to(None, Some(writer));
        let observer = progress.observer();
        observer(at(Phase::Dump, 400));
        // Too soon after the first, so only seen in what is told at the end.
        observer(at(Phase::Dump, 800));
        observer(at(Phase::Sync, 800));
        observer(at(Phase::Sync, 1600));
        progress.done();
        observer(at(Phase::Sync, 3200));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let told: Vec<_> = lines
            .iter()
            .map(|line| {
                let phase = line["phase"].as_str().unwrap_or_default();
                (phase, line["raw_bytes"].as_u64().unwrap_or_default())
            })
            .collect();
        assert_eq!(told, [("dump", 400), ("sync", 800), ("done", 1600)]);
        assert_eq!(lines[2]["stored_bytes"], 400);
    }

    #[test]
    fn a_reader_that_sleeps_or_has_gone_holds_nobody_up() {
        let (reader, writer) = pipe();
        let progress = Progress::to(None, Some(writer));
        let observer = progress.observer();
        for turn in 0..4000 {
            let phase = [Phase::Dump, Phase::Sync][turn % 2];
            observer(at(phase, 1 << 40));
        }
        drop(reader);
        observer(at(Phase::Compress, 1));
        progress.done();
    }

    #[test]
    fn the_line_fits() {
        let line = line(at(Phase::Sync, u64::MAX));
        assert!(line.len() < 80, "{line}");
    }
}
