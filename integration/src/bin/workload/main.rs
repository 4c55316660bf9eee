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
mod games;
mod layouts;
mod memory;
mod odd;
mod passing;
mod refused;
mod sockets;
mod sys;

use std::cell::RefCell;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::process::exit;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use family::{Child, Counters};
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

/// The number of spaces at the end of a long journal's first line: enough for the file
/// to grow while containerd packs it.
const LONG: usize = 64 << 20;

/// A part of the state, verified on demand.
type Check = Box<dyn FnMut(&mut Report)>;

fn main() {
    // Before any thread exists, so that every thread inherits the mask and the
    // signals wait for the one `sigwait` below.
    sys::block_signals(&[sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM]);
    let mut arguments = std::env::args().skip(1);
    let mut name = String::from("workload");
    let mut term_code = 0;
    let mut child = false;
    let mut checks: Vec<Check> = Vec::new();
    let games: Rc<RefCell<Option<games::Games>>> = Rc::default();
    let mut data: Option<Rc<Pattern>> = None;
    let late: Rc<RefCell<Option<layouts::Workers>>> = Rc::default();
    let mut forks_late = false;
    let nonce = nonce();
    let ticks = tick();

    while let Some(flag) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| usage(&format!("{flag} needs a value")))
        };
        match flag.as_str() {
            "--name" => name = value(),
            "--term-code" => term_code = number(&value()) as i32,
            "--child" => child = true,
            "--memory" => {
                let pattern = Rc::new(Pattern::fill(nonce, number(&value()) << 20));
                data = Some(Rc::clone(&pattern));
                checks.push(Box::new(move |r| r.check("memory", pattern.verify())));
            }
            "--ballast" => {
                let pattern = Pattern::fill(!nonce, number(&value()) << 20);
                checks.push(Box::new(move |r| r.check("ballast", pattern.verify())));
            }
            "--compressible-memory" => {
                let memory = memory::Compressible::fill(nonce, number(&value()) << 20);
                checks.push(Box::new(move |r| {
                    r.check("compressible-memory", memory.verify())
                }));
            }
            "--shared-memory" => {
                let segment = expect(memory::Shared::fill(nonce, number(&value()) << 20));
                checks.push(Box::new(move |r| {
                    r.check("shared-memory", segment.verify())
                }));
            }
            "--threads" => {
                let counters = Counters::start(number(&value()));
                checks.push(Box::new(move |r| r.check("threads", counters.verify())));
            }
            "--children" => {
                let generations = value();
                let mut family: Vec<Child> =
                    (0..2).map(|_| expect(Child::spawn(&generations))).collect();
                checks.push(Box::new(move |r| {
                    for (i, child) in family.iter_mut().enumerate() {
                        match child.ask() {
                            Ok(answer) => r.add(&format!("child{i}"), answer),
                            Err(fault) => r.add(&format!("child{i}"), fault),
                        }
                    }
                }));
            }
            "--deleted-file" => {
                let mut file = expect(files::Held::deleted(nonce, number(&value())));
                checks.push(Box::new(move |r| r.check("deleted-file", file.verify())));
            }
            "--renamed-away" => {
                let mut file = expect(files::Held::with_another_name(nonce));
                checks.push(Box::new(move |r| r.check("renamed-away", file.verify())));
            }
            "--file" => {
                let mut file = expect(files::Held::create(&value(), nonce, 64 << 10));
                checks.push(Box::new(move |r| r.check("file", file.verify())));
            }
            "--journal" => {
                let journal = expect(files::Journal::begin(&value(), nonce, 0));
                checks.push(Box::new(move |r| r.check("journal", journal.verify())));
            }
            "--long-journal" => {
                let journal = expect(files::Journal::begin(&value(), nonce, LONG));
                checks.push(Box::new(move |r| r.check("journal", journal.verify())));
            }
            "--lock" => {
                let lock = expect(files::Lock::take(&value()));
                checks.push(Box::new(move |r| r.check("lock", lock.verify())));
            }
            "--tcp" => {
                let mut talk = expect(sockets::Conversation::tcp());
                checks.push(Box::new(move |r| r.check("tcp", talk.verify())));
            }
            "--unix" => {
                let mut talk = expect(sockets::Conversation::unix());
                checks.push(Box::new(move |r| r.check("unix", talk.verify())));
            }
            "--games" => {
                *games.borrow_mut() = Some(expect(games::Games::set_up(nonce)));
                let games = Rc::clone(&games);
                checks.push(Box::new(move |r| {
                    let games = games.borrow();
                    r.check("games", games.as_ref().map_or(Ok(()), games::Games::verify));
                }));
            }
            "--guarded" => {
                let guarded = expect(layouts::Guarded::set_up(nonce));
                checks.push(Box::new(move |r| r.check("guarded", guarded.verify())));
            }
            "--reserved" => {
                let reserved = expect(layouts::Reserved::set_up(nonce, number(&value())));
                checks.push(Box::new(move |r| r.check("reserved", reserved.verify())));
            }
            "--workers" => {
                let workers = layouts::Workers::fork(data.as_deref(), number(&value()));
                let workers = expect(workers);
                checks.push(Box::new(move |r| r.check("workers", workers.verify())));
            }
            "--late-workers" => {
                forks_late = true;
                let late = Rc::clone(&late);
                checks.push(Box::new(move |r| {
                    let late = late.borrow();
                    r.check(
                        "late-workers",
                        late.as_ref().map_or(Ok(()), layouts::Workers::verify),
                    );
                }));
            }
            "--with" => {
                let mut holder = expect(refused::Holder::start(&value()));
                checks.push(Box::new(move |r| r.check("with", holder.verify())));
            }
            "--hold" => refused::hold(&value()),
            "--backlog" => expect(passing::backlog(value())),
            "--netlink" => expect(passing::netlink(value())),
            "--traced" => expect(passing::traced(value())),
            "--vfork" => expect(passing::vfork(value())),
            "--idle" => odd::idle(),
            "--leave-daemon" => expect(odd::leave_daemon()),
            "--subreaper" => expect(odd::be_subreaper(&value())),
            "--session" => expect(odd::be_session(&value())),
            "--lines" => answer_lines(),
            "--ticks" => print_ticks(),
            other => match odd(other) {
                Some(odd) => {
                    let odd = expect(odd);
                    checks.push(Box::new(move |r| r.check("odd", odd.verify())));
                }
                None => usage(&format!("unknown flag {other}")),
            },
        }
    }

    let report = |checks: &mut Vec<Check>| {
        let mut report = Report::default();
        report.add("nonce", format!("{nonce:016x}"));
        report.add("counter", ticks.load(Ordering::Relaxed));
        for check in checks {
            check(&mut report);
        }
        report
    };

    if child {
        family::serve(|| report(&mut checks).0);
    }
    publish(&format!("/out/{name}.ready"), "ready\n");
    loop {
        match sys::wait_signal(&[sys::SIGUSR1, sys::SIGUSR2, sys::SIGTERM]) {
            sys::SIGUSR2 => {
                if let Some(games) = &mut *games.borrow_mut() {
                    games.play();
                }
                if forks_late {
                    let workers = layouts::Workers::fork(data.as_deref(), 2);
                    *late.borrow_mut() = Some(expect(workers));
                    publish(&format!("/out/{name}.forked"), "forked\n");
                    continue;
                }
                publish(&format!("/out/{name}.report"), &report(&mut checks).0);
            }
            sys::SIGUSR1 => publish(&format!("/out/{name}.report"), &report(&mut checks).0),
            _ => exit(term_code),
        }
    }
}

/// The state of a flag that CRIU can't restore, or of its counterpart that it can.
fn odd(flag: &str) -> Option<io::Result<odd::Odd>> {
    Some(match flag {
        "--deleted-directory-first" => odd::deleted_directory(true),
        "--deleted-directory-last" => odd::deleted_directory(false),
        "--deleted-directory-replaced" => odd::replaced_directory(),
        "--file-of-thread" => odd::file_of_thread(false),
        "--file-of-first-thread" => odd::file_of_thread(true),
        "--program-in-memory" => odd::lost_program(true),
        "--program-deleted" => odd::lost_program(false),
        "--tun" => odd::tun(true),
        "--tun-without-device" => odd::tun(false),
        "--daemon-of-subreaper" => odd::daemon(true),
        "--daemon-of-init" => odd::daemon(false),
        "--overlay" => odd::mounted(true),
        "--tmpfs" => odd::mounted(false),
        _ => return None,
    })
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

/// Answers each line of standard input, for stories about terminals and pipes.
fn answer_lines() {
    thread::spawn(|| {
        for (n, line) in io::stdin().lock().lines().map_while(Result::ok).enumerate() {
            println!("line {}: {}", n + 1, line.trim());
        }
    });
}

/// Prints the numbers from 1, for stories about logs.
fn print_ticks() {
    thread::spawn(|| {
        for n in 1u64.. {
            // One write for a line, so that a checkpoint falls between two.
            if io::stdout()
                .write_all(format!("tick {n}\n").as_bytes())
                .is_err()
            {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
}

/// Writes a file whole or not at all, since its reader waits for the name.
fn publish(path: &str, text: &str) {
    let draft = format!("{path}.draft");
    expect(fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)));
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
