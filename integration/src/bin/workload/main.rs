//! A program that verifies its own state, so that a story can tell a restored
//! process from a new one.
//!
//! The program draws a random nonce when it starts and derives all of its state from
//! it: a memory pattern, counting threads, children, files, locks and sockets. On
//! SIGUSR1 it verifies all of it and writes the result to `/out/NAME.report`. On
//! SIGUSR2 it plays games with its memory first. A new process reports another nonce;
//! a process that lost a page or a connection names it.
//!
//! A checkpoint does not disturb it: it waits in `sigwait`, repeated if
//! it is interrupted, and it handles SIGTERM, which busybox's programs ignore as PID 1.

mod family;
mod files;
mod flags;
mod games;
mod layouts;
mod memory;
mod odd;
mod passing;
mod refused;
mod sockets;
mod sys;

use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use games::Games;
use layouts::Workers;
use memory::Pattern;

/// The results, one `key=value` per line.
#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, key: &str, value: impl Display) {
        self.0.push_str(&format!("{key}={value}\n"));
    }

    fn check(&mut self, key: &str, found: Result<(), String>) {
        match found {
            Ok(()) => self.add(key, "ok"),
            Err(fault) => self.add(key, fault.replace('\n', " ")),
        }
    }
}

/// A part of the state, verified on demand.
type Check = Box<dyn FnMut(&mut Report)>;

/// The program's state, set up by its flags.
struct Workload {
    nonce: u64,
    ticks: Arc<AtomicU64>,
    name: String,
    /// The exit code after SIGTERM.
    term_code: i32,
    /// Whether a parent asks for reports through pipes.
    is_child: bool,
    memory: Option<Pattern>,
    games: Option<Games>,
    /// Whether SIGUSR2 forks workers.
    forks_late: bool,
    late_workers: Option<Workers>,
    checks: Vec<Check>,
}

fn main() {
    // Before any thread exists, so that every thread inherits the mask and the
    // signals wait for the one `sigwait` below.
    sys::block_signals(&[sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM]);
    let mut workload = Workload::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        workload.set_up(&flag, &mut || {
            arguments
                .next()
                .unwrap_or_else(|| usage(&format!("{flag} needs a value")))
        });
    }
    if workload.is_child {
        family::serve(|| workload.report().0);
    }
    workload.serve()
}

impl Workload {
    fn new() -> Self {
        Self {
            nonce: nonce(),
            ticks: tick(),
            name: "workload".to_owned(),
            term_code: 0,
            is_child: false,
            memory: None,
            games: None,
            forks_late: false,
            late_workers: None,
            checks: Vec::new(),
        }
    }

    /// Verifies all of the state.
    fn report(&mut self) -> Report {
        let mut report = Report::default();
        report.add("nonce", format!("{:016x}", self.nonce));
        report.add("counter", self.ticks.load(Ordering::Relaxed));
        if let Some(memory) = &self.memory {
            report.check("memory", memory.verify());
        }
        if let Some(games) = &self.games {
            report.check("games", games.verify());
        }
        if self.forks_late {
            let workers = self.late_workers.as_ref();
            report.check("late-workers", workers.map_or(Ok(()), Workers::verify));
        }
        for check in &mut self.checks {
            check(&mut report);
        }
        report
    }

    /// Says that the state is set up, then acts on signals.
    fn serve(&mut self) -> ! {
        self.publish("ready", "ready\n");
        loop {
            match sys::wait_signal(&[sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM]) {
                sys::SIGUSR1 => self.publish_report(),
                sys::SIGUSR2 if self.forks_late => {
                    let workers = Workers::fork(self.memory.as_ref(), 2);
                    self.late_workers = Some(expect(workers));
                    self.publish("forked", "forked\n");
                }
                sys::SIGUSR2 => {
                    if let Some(games) = &mut self.games {
                        games.play();
                    }
                    self.publish_report();
                }
                _ => exit(self.term_code),
            }
        }
    }

    fn publish_report(&mut self) {
        let report = self.report();
        self.publish("report", &report.0);
    }

    /// Writes a file whole or not at all, since its reader waits for the name.
    fn publish(&self, kind: &str, text: &str) {
        let path = format!("/out/{}.{kind}", self.name);
        let draft = format!("{path}.draft");
        expect(fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)));
    }
}

/// A counter that moves until the process is stopped.
fn tick() -> Arc<AtomicU64> {
    let ticks = Arc::new(AtomicU64::new(0));
    let moving = Arc::clone(&ticks);
    thread::spawn(move || {
        loop {
            moving.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
        }
    });
    ticks
}

fn nonce() -> u64 {
    let mut bytes = [0; 8];
    expect(fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)));
    u64::from_ne_bytes(bytes)
}

fn number(text: &str) -> usize {
    text.parse()
        .unwrap_or_else(|_| usage(&format!("{text} is not a number")))
}

fn expect<T, E: Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| usage(&error.to_string()))
}

fn usage(message: &str) -> ! {
    // Standard error may be closed; the exit code says the same.
    let _ = writeln!(io::stderr(), "workload: {message}");
    exit(64)
}
