//! Sets up the state that each flag of the command line names.

use std::io::{self, BufRead, Write};
use std::thread;
use std::time::Duration;

use crate::family::{Child, Counters};
use crate::games::Games;
use crate::layouts::{Guarded, Reserved, Workers};
use crate::memory::{Compressible, Pattern, Shared};
use crate::{Check, Workload, expect, files, number, odd, passing, refused, sockets, usage};

/// The number of spaces at the end of a long journal's first line: enough for the file
/// to grow while containerd packs it.
const LONG: usize = 32 << 20;

/// Reads the value that follows a flag.
type Value<'a> = &'a mut dyn FnMut() -> String;

impl Workload {
    pub(crate) fn set_up(&mut self, flag: &str, value: Value<'_>) {
        let nonce = self.nonce;
        match flag {
            "--name" => self.name = value(),
            "--term-code" => self.term_code = number(&value()) as i32,
            "--child" => self.is_child = true,
            "--memory" => self.memory = Some(Pattern::fill(nonce, number(&value()) << 20)),
            "--games" => self.games = Some(expect(Games::set_up(nonce))),
            "--late-workers" => self.forks_late = true,
            "--workers" => {
                let workers = expect(Workers::fork(self.memory.as_ref(), number(&value())));
                self.checks.push(check("workers", move || workers.verify()));
            }
            "--children" => self.checks.push(children(&value())),
            _ => match held(flag, nonce, value) {
                Some(check) => self.checks.push(check),
                None => behave(flag, value),
            },
        }
    }
}

fn check(key: &'static str, mut verify: impl FnMut() -> Result<(), String> + 'static) -> Check {
    Box::new(move |report| report.check(key, verify()))
}

/// Two children, and below each of them `generations` more.
fn children(generations: &str) -> Check {
    let mut children = [(); 2].map(|()| expect(Child::spawn(generations)));
    Box::new(move |report| {
        for (i, child) in children.iter_mut().enumerate() {
            let answer = child.ask().unwrap_or_else(|fault| fault);
            report.add(&format!("child{i}"), answer);
        }
    })
}

/// State that depends on no other flag; `None` if the flag names none.
fn held(flag: &str, nonce: u64, value: Value<'_>) -> Option<Check> {
    Some(match flag {
        "--ballast" => {
            let pattern = Pattern::fill(!nonce, number(&value()) << 20);
            check("ballast", move || pattern.verify())
        }
        "--compressible-memory" => {
            let memory = Compressible::fill(nonce, number(&value()) << 20);
            check("compressible-memory", move || memory.verify())
        }
        "--shared-memory" => {
            let segment = expect(Shared::fill(nonce, number(&value()) << 20));
            check("shared-memory", move || segment.verify())
        }
        "--guarded" => {
            let guarded = expect(Guarded::set_up(nonce));
            check("guarded", move || guarded.verify())
        }
        "--reserved" => {
            let reserved = expect(Reserved::set_up(nonce, number(&value())));
            check("reserved", move || reserved.verify())
        }
        "--threads" => {
            let counters = Counters::start(number(&value()));
            check("threads", move || counters.verify())
        }
        "--deleted-file" => {
            let mut file = expect(files::Held::deleted(nonce, number(&value())));
            check("deleted-file", move || file.verify())
        }
        "--renamed-away" => {
            let mut file = expect(files::Held::with_another_name(nonce));
            check("renamed-away", move || file.verify())
        }
        "--file" => {
            let mut file = expect(files::Held::create(&value(), nonce, 64 << 10));
            check("file", move || file.verify())
        }
        "--journal" => journal(&value(), nonce, 0),
        "--long-journal" => journal(&value(), nonce, LONG),
        "--lock" => {
            let lock = expect(files::Lock::take(&value()));
            check("lock", move || lock.verify())
        }
        "--tcp" => {
            let mut talk = expect(sockets::Conversation::tcp());
            check("tcp", move || talk.verify())
        }
        "--connections" => {
            let talks: io::Result<Vec<_>> = (0..number(&value()))
                .map(|_| sockets::Conversation::tcp())
                .collect();
            let mut talks = expect(talks);
            check("connections", move || {
                talks.iter_mut().try_for_each(|talk| talk.verify())
            })
        }
        "--unix" => {
            let mut talk = expect(sockets::Conversation::unix());
            check("unix", move || talk.verify())
        }
        "--with" => {
            let mut holder = expect(refused::Holder::start(&value()));
            check("with", move || holder.verify())
        }
        _ => {
            let odd = expect(odd(flag)?);
            check("odd", move || odd.verify())
        }
    })
}

fn journal(path: &str, nonce: u64, spaces: usize) -> Check {
    let journal = expect(files::Journal::begin(path, nonce, spaces));
    check("journal", move || journal.verify())
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

/// Starts what a flag names and no report has.
fn behave(flag: &str, value: Value<'_>) {
    match flag {
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
        _ => usage(&format!("unknown flag {flag}")),
    }
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
