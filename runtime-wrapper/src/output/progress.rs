//! The progress of a checkpoint: a line on a terminal, and JSON lines for a program.
//!
//! The engine's threads report it ([`Progress::observer`]) and must not be blocked by
//! a stopped terminal or by a reader that does not read. So the descriptor is polled
//! before each write, and the line is skipped if the write would block. Lines are
//! short, so a pipe takes a whole line or none of it.
//!
//! The terminal's line is on stderr, is overwritten by the next, and is erased when
//! the checkpoint is done, before any other output there.

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
use crate::output::units::micros;

/// The shortest time between two lines: people can't read faster.
const INTERVAL: Duration = Duration::from_millis(100);

/// A `--progress-fd` that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("--progress-fd {fd} is not open for us to write to: {source}")]
pub(crate) struct BadDescriptor {
    fd: i32,
    source: io::Error,
}

/// Shows the progress of a checkpoint until it is dropped.
pub(crate) struct Progress(Arc<Mutex<Display>>);

struct Display {
    begin: Instant,
    last: Option<(Instant, progress::Progress)>,
    terminal: Option<io::Stderr>,
    /// The file of `--progress-fd`.
    program: Option<File>,
}

impl Progress {
    /// Shows it on stderr if that is a terminal, and on `--progress-fd` if given.
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
        Self(Arc::new(Mutex::new(Display {
            begin: Instant::now(),
            last: None,
            terminal,
            program,
        })))
    }

    /// The callback for the engine.
    pub(crate) fn observer(&self) -> Arc<Observer> {
        let display = Arc::clone(&self.0);
        Arc::new(move |progress| {
            display
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .update(progress, Instant::now());
        })
    }

    /// Reports to the program that the checkpoint is complete.
    pub(crate) fn done(self) {
        let mut display = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = display.last.map(|(_, progress)| progress);
        display.write_json(contract::Phase::Done, last, Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut display = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        display.erase();
        // Later reports of the engine's threads are ignored.
        display.terminal = None;
        display.program = None;
    }
}

impl Display {
    fn update(&mut self, progress: progress::Progress, now: Instant) {
        let is_due = match self.last {
            None => true,
            Some((at, last)) => {
                last.phase != progress.phase || now.saturating_duration_since(at) >= INTERVAL
            }
        };
        if !is_due {
            // `done` reports the last state.
            if let Some((_, last)) = &mut self.last {
                *last = progress;
            }
            return;
        }
        self.last = Some((now, progress));
        self.write_json(name(progress.phase), Some(progress), now);
        if let Some(terminal) = &mut self.terminal
            && is_writable(terminal)
        {
            // A closed terminal is no error of the checkpoint.
            let _ = write!(terminal, "\r{}\x1b[K", line(progress));
        }
    }

    fn write_json(
        &mut self,
        phase: contract::Phase,
        progress: Option<progress::Progress>,
        now: Instant,
    ) {
        let Some(program) = &mut self.program else {
            return;
        };
        if !is_writable(program) {
            return;
        }
        let elapsed = now.saturating_duration_since(self.begin);
        let (raw, done, stored) = progress.map_or((0, 0, 0), |p| (p.raw, p.done, p.stored));
        let message = contract::Message {
            phase,
            elapsed_us: micros(elapsed),
            raw_bytes: raw,
            done_bytes: done,
            stored_bytes: stored,
        };
        let written = serde_json::to_string(&message)
            .map_err(io::Error::from)
            .and_then(|line| program.write_all(format!("{line}\n").as_bytes()));
        if written.is_err() {
            // The reader has closed the pipe, which is no error of the checkpoint.
            self.program = None;
        }
    }

    fn erase(&mut self) {
        if self.last.is_some()
            && let Some(terminal) = &mut self.terminal
            && is_writable(terminal)
        {
            let _ = write!(terminal, "\r\x1b[K");
        }
    }
}

/// Whether a line can be written without blocking.
fn is_writable(to: &impl AsFd) -> bool {
    let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    // A write reports a broken descriptor.
    matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1))
}

fn name(phase: Phase) -> contract::Phase {
    match phase {
        Phase::Dump => contract::Phase::Dump,
        Phase::Compress => contract::Phase::Compress,
        Phase::Sync => contract::Phase::Sync,
    }
}

/// Fits into eighty columns, since a wrapped line can't be overwritten.
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
    fn programs_read_json_lines() {
        let (mut reader, writer) = pipe();
        let progress = Progress::to(None, Some(writer));
        let observer = progress.observer();
        observer(at(Phase::Dump, 400));
        // Too soon after the first, so only in the last line.
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
        let reported: Vec<_> = lines
            .iter()
            .map(|line| {
                let phase = line["phase"].as_str().unwrap_or_default();
                (phase, line["raw_bytes"].as_u64().unwrap_or_default())
            })
            .collect();
        assert_eq!(reported, [("dump", 400), ("sync", 800), ("done", 1600)]);
        assert_eq!(lines[2]["stored_bytes"], 400);
    }

    #[test]
    fn a_slow_or_closed_reader_does_not_block_the_engine() {
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
    fn the_line_fits_into_a_terminal() {
        let line = line(at(Phase::Sync, u64::MAX));
        assert!(line.len() < 80, "{line}");
    }
}
