//! The page source as a process.
//!
//! Its standard input is the connection to `cedana-runc restore`, its standard
//! output the socket that CRIU connects to; both are replaced at once, so that
//! nobody waits for this process to close what it never writes to. It needs
//! nothing but what it opens at its start: the checkpoint may be deleted as soon
//! as the container runs.
//!
//! One thread waits, for all of these at a time: the engine ([`Source`]), the
//! restore, the guard, and checkpoints that want memory to be complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::lazy::layout::Memory;
use cedana_checkpoint::lazy::{Failure, Phase, Source};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{dup2_stdin, dup2_stdout};
use serde_json::{Value, json};

use super::control::{Control, text};
use super::ledger::{self, Ledger};
use crate::host::{cgroup, sys};
use crate::lazy::complete_memory::NO_ROOM;
use crate::lazy::completion_socket::Door;
use crate::lazy::history::Record;
use crate::lazy::kill::{Mourners, watch};
use crate::lazy::touch_cache::Touched;
use crate::lazy::watchdog::{self, Post};

/// Serves a container's memory until it has all of it.
pub(crate) fn serve() -> ExitCode {
    // Nobody hears an error: there is no stderr. The restore sees the end.
    let Ok((control, listener)) = take_over() else {
        return ExitCode::FAILURE;
    };
    let Some(settings) = control.wait() else {
        return ExitCode::FAILURE;
    };
    die_before_daemons(&settings);
    match Serving::begin(control, listener, &settings) {
        Ok(serving) => serving.run(),
        Err((control, reason)) => {
            control.say(&json!({"say": "failed", "reason": reason}));
            ExitCode::FAILURE
        }
    }
}

/// Takes what was handed down, and lets go of all that was inherited.
fn take_over() -> io::Result<(Control, OwnedFd)> {
    sys::close_all_but_standard()?;
    // The kernel took the last part of /proc/self/exe.
    sys::rename(c"cedana-pages");
    let control = sys::take_fd(0)?;
    let listener = sys::take_fd(1)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    // A descriptor for each process, and for each page file.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    Ok((Control::new(control), listener))
}

/// The least `oom_score_adj` of a page source: a tenth of the machine's memory on
/// top of its own counts against it, so that the kernel kills it before any daemon
/// of the node with the usual 0. Its container ends with it, and nothing else. It
/// would inherit the shim's, which protects.
const OOM_SCORE_ADJ: i64 = 100;

/// Lets the kernel's out-of-memory killer take this process, and the guard that
/// it starts, as early as the container itself, and before the node's daemons.
fn die_before_daemons(settings: &Value) {
    let container = settings.get("oom_score_adj").and_then(Value::as_i64);
    let adj = container.unwrap_or_default().max(OOM_SCORE_ADJ);
    // Raising it needs no privilege.
    let _ = fs::write("/proc/self/oom_score_adj", adj.to_string());
}

struct Serving {
    post: Post,
    watchdog: OwnedFd,
    source: Source,
    touched: Option<Touched>,
    record: Record,
    /// The restore is over, or has failed: it says nothing any more.
    restore_ended: bool,
    /// The runtime has ended.
    runtime_ended: bool,
    /// Whom to kill is known, and the restore knows that.
    served: bool,
    /// Where checkpoints ask; there once the container is known.
    door: Option<Door>,
    init_known: bool,
    /// Init, until its end.
    init: Option<OwnedFd>,
    /// Its PID; 0 until it is known.
    init_pid: i32,
    /// The log and the records say that the restore is complete.
    noted: bool,
    /// A test's, before which prefetching waits.
    gate: Option<File>,
}

impl Serving {
    fn begin(
        control: Control,
        listener: OwnedFd,
        settings: &Value,
    ) -> Result<Self, (Control, String)> {
        let begun = Instant::now();
        let prepare = || -> io::Result<(Post, OwnedFd, UnixListener)> {
            let ours = UnixListener::from(listener.try_clone()?);
            let post = Post {
                ledger: Ledger::new()?,
                control: Control::new(control.try_clone()?),
                listener,
                mourners: Mourners::new(settings),
            };
            // First, while there is one thread.
            let watchdog = watchdog::start(&post)?;
            Ok((post, watchdog, ours))
        };
        let (post, watchdog, listener) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return Err((control, format!("cannot start a page source: {error}"))),
        };
        let ledger = post.ledger.clone();
        let about_to_run = Box::new(move || ledger.set_phase(ledger::Phase::Running));
        match open(settings, listener, about_to_run) {
            Ok((mut source, touched)) => Ok(Self {
                gate: text(settings, "gate").and_then(|path| {
                    source.hold_prefetch();
                    let flags = nix::libc::O_NONBLOCK;
                    File::options()
                        .read(true)
                        .custom_flags(flags)
                        .open(path)
                        .ok()
                }),
                source,
                touched,
                watchdog,
                record: Record::new(settings, begun),
                restore_ended: false,
                runtime_ended: false,
                served: false,
                door: None,
                init_known: false,
                init: None,
                init_pid: 0,
                noted: false,
                post,
            }),
            Err(reason) => {
                // The guard tells it, and has nobody to kill.
                post.ledger.set_reason(&reason);
                std::process::exit(1);
            }
        }
    }

    fn run(mut self) -> ExitCode {
        let mut said_finished = false;
        loop {
            if let Err(reason) = self.wait() {
                return self.give_up(&reason);
            }
            if let Err(failure) = self.source.step() {
                return match failure {
                    // CRIU's log says why.
                    Failure::Unfinished => {
                        self.post.control.say(&json!({"say": "unfinished"}));
                        self.over(ExitCode::FAILURE)
                    }
                    failure => self.give_up(&failure.to_string()),
                };
            }
            if let Some(criu) = self.source.criu() {
                self.post.ledger.set_criu(criu.as_raw_fd());
            }
            match self.source.phase() {
                // A runtime that has no use for us; nothing is missing then.
                Phase::Restoring if self.runtime_ended && !self.source.was_asked() => {
                    self.serves();
                    return self.over(ExitCode::SUCCESS);
                }
                // The restore has failed before CRIU came, or was killed.
                Phase::Restoring if self.restore_ended && !self.source.was_asked() => {
                    return self.over(ExitCode::FAILURE);
                }
                Phase::Restoring => {}
                _ if !said_finished => {
                    said_finished = true;
                    self.record.running();
                    self.post.control.say(&json!({"say": "finished"}));
                }
                Phase::Restored => self.note(),
                // The restore must be told before we go.
                Phase::Complete if self.restore_ended || self.init_known => {
                    self.serves();
                    self.note();
                    return self.over(ExitCode::SUCCESS);
                }
                _ => {}
            }
        }
    }

    /// Waits for something to do, and does what is not the engine's.
    fn wait(&mut self) -> Result<(), String> {
        let mut ready = vec![
            PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.watchdog.as_fd(), PollFlags::POLLIN),
        ];
        if !self.restore_ended {
            ready.push(PollFd::new(self.post.control.as_fd(), PollFlags::POLLIN));
        }
        if let Some(door) = &self.door {
            ready.push(PollFd::new(door.as_fd(), PollFlags::POLLIN));
        }
        let init = self.init.as_ref().map(|init| {
            ready.push(PollFd::new(init.as_fd(), PollFlags::POLLIN));
            ready.len() - 1
        });
        if let Some(gate) = &self.gate {
            ready.push(PollFd::new(gate.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match self.source.timeout() {
            Some(timeout) => PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("its page source cannot wait: {error}")),
        }
        let has_ended = init.is_some_and(|init| ready[init].any() == Some(true));
        let is_open =
            self.gate.is_some() && ready.last().is_some_and(|gate| gate.any() == Some(true));
        if ready[1].any().unwrap_or(false) {
            return Err(
                "the guard of its page source was killed before its memory was complete".to_owned(),
            );
        }
        if has_ended {
            // The kernel says of an address space that is gone when it is to be
            // given something; others may live on for a while.
            self.init = None;
            self.source.begin_prefetch();
        }
        if is_open {
            self.gate = None;
            self.source.begin_prefetch();
        }
        if !self.restore_ended {
            self.hear();
        }
        if let Some(door) = &mut self.door
            && door.let_in()
        {
            match has_room(&self.source, self.init_pid) {
                true => self.source.hurry(),
                // Copies beyond the limit would have the kernel, or us, kill it.
                false => door.answer(NO_ROOM),
            }
        }
        Ok(())
    }

    /// Hears whom we serve.
    fn hear(&mut self) {
        match self.post.control.look() {
            Ok(Some(mut message)) if text(&message, "say") == Some("running") => {
                let init = message
                    .get("init")
                    .and_then(Value::as_i64)
                    .unwrap_or_default();
                let init = i32::try_from(init).unwrap_or_default();
                self.init_pid = init;
                self.door = Door::open(init).ok();
                if let Some(pidfd) = watch(&message) {
                    self.init = pidfd.try_clone().ok();
                    // Open until both of us have ended.
                    let number = pidfd.into_raw_fd();
                    if let Some(fields) = message.as_object_mut() {
                        fields.insert("pidfd".to_owned(), number.into());
                    }
                }
                self.post.ledger.set_container(&message);
                self.init_known = true;
                match self.door {
                    Some(_) => self.serves(),
                    // A checkpoint would miss what is missing: so the restore
                    // waits until nothing is.
                    None => self.source.hurry(),
                }
            }
            Ok(Some(message)) if text(&message, "say") == Some("ended") => {
                self.runtime_ended = true;
            }
            Ok(Some(_)) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.restore_ended = true,
        }
    }

    /// Lets the restore report success.
    fn serves(&mut self) {
        if !self.served {
            self.served = true;
            self.post.control.say(&json!({"say": "served"}));
        }
    }

    /// The container must not go on.
    fn give_up(self, reason: &str) -> ExitCode {
        self.post.ledger.set_reason(reason);
        self.record.write(&self.source.metrics(), Some(reason));
        // The guard does it when we are gone; if it is gone, we do.
        let mut ready = [PollFd::new(self.watchdog.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1..)) {
            self.post.source_ended();
        }
        if let Some(door) = self.door {
            door.close(None);
        }
        // Not by way of destructors: nothing may be closed.
        std::process::exit(1);
    }

    /// Writes down, once, that the restored processes have all of their memory.
    fn note(&mut self) {
        if std::mem::replace(&mut self.noted, true) {
            return;
        }
        let metrics = self.source.metrics();
        let line = self.record.write(&metrics, None);
        self.post.mourners.note(&line);
        if let Some(touched) = self.touched.take() {
            // Without it the next restore is as this one was.
            let _ = touched.add(self.source.touches());
        }
    }

    fn over(self, code: ExitCode) -> ExitCode {
        self.post.ledger.set_phase(ledger::Phase::Over);
        if let Some(door) = self.door {
            door.close(Some("done"));
        }
        code
    }
}

/// Whether the container's memory limit has room for the copies that a checkpoint
/// needs of what its children lack, with an eighth on top for page tables.
fn has_room(source: &Source, init: i32) -> bool {
    let copies = source.missing_in_children();
    let needed = copies.saturating_add(copies / 8);
    copies == 0 || cgroup::memory_headroom(init).is_none_or(|left| needed <= left)
}

/// Opens the checkpoint, and what is known of its restores.
fn open(
    settings: &Value,
    listener: UnixListener,
    about_to_run: Box<dyn FnMut()>,
) -> Result<(Source, Option<Touched>), String> {
    let dir = Path::new(text(settings, "images").unwrap_or_default());
    let page = sys::page_size();
    let threads = settings.get("threads").and_then(Value::as_u64).unwrap_or(1);
    let manifest = Manifest::read(dir).map_err(|error| error.to_string())?;
    let manifest = manifest.ok_or("the checkpoint has lost its manifest")?;
    let memory = Memory::open(dir, &manifest, page).map_err(|error| error.to_string())?;
    let mut source = Source::new(memory, listener, page, threads as usize, about_to_run)
        .map_err(|error| format!("cannot start a page source: {error}"))?;
    let touched = Touched::of(dir);
    if let Some(touched) = &touched {
        source.expect(touched.earlier());
    }
    Ok((source, touched))
}
