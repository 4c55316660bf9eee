//! The page source as a process.
//!
//! Its standard input is the connection to `cedana-runc restore`, its standard
//! output the socket that CRIU connects to, its standard error output the checkpoint's
//! open directory or archive. All are replaced by `/dev/null` at once, so that no reader
//! waits for this process to close them. The source opens all it needs when it starts:
//! the checkpoint may be deleted as soon as the container runs.
//!
//! One thread polls all of these: the engine ([`Source`]), the restore, the
//! watchdog, the container's init, and checkpoints that need complete memory.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use crate::format::manifest::Manifest;
use crate::lazy::layout::Memory;
use crate::lazy::{Failure, Source};
use crate::opened::OpenedDir;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::completion_socket::{CompletionSocket, DONE, NO_ROOM};
use super::control::Control;
use super::history::Recorder;
use super::kill::{Report, watch};
use super::ledger::{Ledger, Life};
use super::messages::{Container, Startup, ToRestore, ToSource};
use super::state::{Effect, End, Event};
use super::touch_cache::TouchCache;
use super::watchdog::{self, Shared};
use crate::host::{cgroup, sys};
use cedana_contract::pid::Pid;

/// Serves a container's memory until it has all of it.
pub fn serve() -> ExitCode {
    // There is no stderr to report an error to. The restore notices the end.
    let Ok((control, listener, checkpoint)) = take_over() else {
        return ExitCode::FAILURE;
    };
    let Some(startup) = control.receive::<Startup>() else {
        return ExitCode::FAILURE;
    };
    die_before_daemons(&startup);
    match Serving::begin(control, listener, checkpoint, &startup) {
        Ok(serving) => serving.run(),
        Err((control, reason)) => {
            control.send(&ToRestore::Failed { reason });
            ExitCode::FAILURE
        }
    }
}

/// Takes the two sockets and the checkpoint, and closes all other inherited descriptors.
fn take_over() -> io::Result<(Control, OwnedFd, OwnedFd)> {
    sys::close_all_but_standard()?;
    // The kernel took the last part of /proc/self/exe.
    sys::rename(c"cedana-pages");
    let control = sys::take_fd(0)?;
    let listener = sys::take_fd(1)?;
    let checkpoint = sys::take_fd(2)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // A descriptor for each process, and for each page file.
    sys::raise_descriptor_limit();
    Ok((Control::new(control), listener, checkpoint))
}

/// The least `oom_score_adj` of a page source. It counts as a tenth of the machine's
/// memory on top of the source's own, so that the kernel kills the source, and with
/// it one container, before a daemon of the node with the usual 0. Inherited, it
/// would be the shim's, which protects.
const OOM_SCORE_ADJ: i64 = 100;

/// Lets the kernel's out-of-memory killer take this process, and the watchdog that
/// it starts, as early as the container itself, and before the node's daemons.
fn die_before_daemons(startup: &Startup) {
    let container = startup.oom_score_adj.unwrap_or_default();
    let adj = container.max(OOM_SCORE_ADJ);
    // Raising it needs no privilege.
    let _ = fs::write("/proc/self/oom_score_adj", adj.to_string());
}

struct Serving {
    shared: Shared,
    /// Polls readable when the watchdog has ended.
    watchdog: OwnedFd,
    life: Rc<RefCell<Life>>,
    source: Source,
    touches: Option<TouchCache>,
    recorder: Recorder,
    /// `None` until the restore has found the container.
    served: Option<Served>,
    /// A test's fifo, before which prefetching waits.
    gate: Option<File>,
}

/// The container, with what the source has open for it.
struct Served {
    init: Pid,
    /// Init, until its end.
    pidfd: Option<OwnedFd>,
    /// `None` if it can't be opened: the restore then waits for complete memory.
    completion: Option<CompletionSocket>,
}

impl Serving {
    fn begin(
        control: Control,
        listener: OwnedFd,
        checkpoint: OwnedFd,
        startup: &Startup,
    ) -> Result<Self, (Control, String)> {
        let begun = Instant::now();
        let prepare = || -> io::Result<(Shared, OwnedFd, UnixListener)> {
            let engines = UnixListener::from(listener.try_clone()?);
            let shared = Shared {
                ledger: Ledger::new()?,
                control: Control::new(control.try_clone()?),
                listener,
                report: Report::new(startup),
            };
            // First, while there is one thread.
            let watchdog = watchdog::start(&shared)?;
            Ok((shared, watchdog, engines))
        };
        let (shared, watchdog, listener) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return Err((control, format!("cannot start a page source: {error}"))),
        };
        let life = Rc::new(RefCell::new(Life::new(shared.ledger.clone())));
        let engines = life.clone();
        let about_to_run = Box::new(move || {
            engines.borrow_mut().apply(Event::RestoreFinished);
        });
        match open(startup, checkpoint, listener, about_to_run) {
            Ok((mut source, touches)) => Ok(Self {
                gate: startup.gate.as_ref().and_then(|path| {
                    source.hold_prefetch();
                    let flags = nix::libc::O_NONBLOCK;
                    File::options()
                        .read(true)
                        .custom_flags(flags)
                        .open(path)
                        .ok()
                }),
                shared,
                watchdog,
                life,
                source,
                touches: Some(touches),
                recorder: Recorder::new(startup, begun),
                served: None,
            }),
            Err(reason) => {
                // The watchdog reports it. There is no container to kill.
                life.borrow_mut().apply(Event::Failed(reason));
                std::process::exit(1);
            }
        }
    }

    fn apply(&self, event: Event) -> Option<Effect> {
        self.life.borrow_mut().apply(event)
    }

    fn run(mut self) -> ExitCode {
        loop {
            if let Err(reason) = self.wait() {
                return self.give_up(&reason);
            }
            let mut effect = match self.source.step() {
                Ok(()) => None,
                Err(Failure::Unfinished) => self.apply(Event::CriuEnded),
                Err(failure) => return self.give_up(&failure.to_string()),
            };
            if let Some(criu) = self.source.criu() {
                self.apply(Event::CriuConnected(criu.as_raw_fd()));
            }
            loop {
                effect = effect.or_else(|| self.apply(Event::Reached(self.source.phase())));
                match effect.take() {
                    None => break,
                    Some(Effect::ReportRunning) => {
                        self.recorder.running();
                        self.shared.control.send(&ToRestore::Finished);
                    }
                    Some(Effect::RecordRestored) => self.record_restored(),
                    Some(Effect::End(end)) => return self.end(end),
                }
            }
        }
    }

    /// Waits until there is something to do, and does what is not the engine's.
    fn wait(&mut self) -> Result<(), String> {
        let hears_restore = self.life.borrow().state().hears_restore();
        let mut ready = vec![
            PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.watchdog.as_fd(), PollFlags::POLLIN),
        ];
        if hears_restore {
            let control = self.shared.control.as_fd();
            ready.push(PollFd::new(control, PollFlags::POLLIN));
        }
        let served = self.served.as_ref();
        if let Some(socket) = served.and_then(|served| served.completion.as_ref()) {
            ready.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        let init = served.and_then(|served| served.pidfd.as_ref()).map(|init| {
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
        let init_ended = init.is_some_and(|init| ready[init].any() == Some(true));
        let gate_opened =
            self.gate.is_some() && ready.last().is_some_and(|gate| gate.any() == Some(true));
        if ready[1].any().unwrap_or(false) {
            return Err(
                "the watchdog of its page source was killed before its memory was complete"
                    .to_owned(),
            );
        }
        if init_ended {
            // The kernel reports the end of an address space only when it is given
            // a page; other processes may live on for a while.
            if let Some(served) = &mut self.served {
                served.pidfd = None;
            }
            self.source.begin_prefetch();
        }
        if gate_opened {
            self.gate = None;
            self.source.begin_prefetch();
        }
        if hears_restore {
            self.hear();
        }
        if let Some(Served {
            init,
            completion: Some(socket),
            ..
        }) = &mut self.served
            && socket.accept()
        {
            match has_room(&self.source, *init) {
                true => self.source.hurry(),
                // For copies beyond the limit the kernel, or the watchdog, would
                // kill the container.
                false => socket.answer(NO_ROOM),
            }
        }
        Ok(())
    }

    /// Reads one message of the restore.
    fn hear(&mut self) {
        match self.shared.control.try_receive() {
            Ok(Some(ToSource::Container(container))) => self.serve(container),
            Ok(Some(ToSource::RuntimeEnded)) => {
                self.apply(Event::RuntimeEnded);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                self.apply(Event::RestoreEnded);
            }
        }
    }

    fn serve(&mut self, mut container: Container) {
        let mut served = Served {
            init: container.init,
            pidfd: None,
            completion: CompletionSocket::open(container.init).ok(),
        };
        if let Some(pidfd) = watch(&container) {
            served.pidfd = pidfd.try_clone().ok();
            // Open until source and watchdog have ended.
            container.pidfd = Some(pidfd.into_raw_fd());
        }
        self.apply(Event::ContainerFound(container));
        match served.completion {
            Some(_) => self.shared.control.send(&ToRestore::Served),
            // A checkpoint would not find the source, so the restore waits until
            // nothing is missing.
            None => self.source.hurry(),
        }
        self.served = Some(served);
    }

    /// Exits after a failure that the container must not survive.
    fn give_up(mut self, reason: &str) -> ExitCode {
        self.apply(Event::Failed(reason.to_owned()));
        self.recorder.write(&self.source.metrics(), Some(reason));
        // The watchdog kills the container when this process has ended; if the
        // watchdog has ended itself, this process does.
        let mut ready = [PollFd::new(self.watchdog.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1..)) {
            self.shared.source_ended();
        }
        if let Some(socket) = self.take_completion_socket() {
            socket.close(None);
        }
        // Without destructors: no descriptor may be closed.
        std::process::exit(1);
    }

    /// Records that the restored processes have all of their memory.
    fn record_restored(&mut self) {
        let metrics = self.source.metrics();
        let line = self.recorder.write(&metrics, None);
        self.shared.report.note(&line);
        if let Some(touches) = self.touches.take() {
            // Without it the next restore is as fast as this one.
            let _ = touches.add(self.source.touches());
        }
    }

    fn end(mut self, end: End) -> ExitCode {
        let control = &self.shared.control;
        let code = match end {
            End::Complete => {
                let socket = self.served.as_ref().map(|served| &served.completion);
                if !matches!(socket, Some(Some(_))) {
                    control.send(&ToRestore::Served);
                }
                ExitCode::SUCCESS
            }
            End::Unused => {
                control.send(&ToRestore::Served);
                ExitCode::SUCCESS
            }
            End::CriuEnded => {
                control.send(&ToRestore::CriuEnded);
                ExitCode::FAILURE
            }
            End::Abandoned => ExitCode::FAILURE,
        };
        if let Some(socket) = self.take_completion_socket() {
            socket.close(Some(DONE));
        }
        code
    }

    fn take_completion_socket(&mut self) -> Option<CompletionSocket> {
        self.served.as_mut()?.completion.take()
    }
}

/// Whether the container's memory limit has room for the copies that a checkpoint
/// needs of memory that forked children lack, with an eighth on top for page tables.
fn has_room(source: &Source, init: Pid) -> bool {
    let copies = source.missing_in_children();
    let needed = copies.saturating_add(copies / 8);
    copies == 0 || cgroup::memory_headroom(init).is_none_or(|left| needed <= left)
}

/// Opens the checkpoint, and the cache of its touches.
fn open(
    startup: &Startup,
    checkpoint: OwnedFd,
    listener: UnixListener,
    about_to_run: Box<dyn FnMut()>,
) -> Result<(Source, TouchCache), String> {
    let dir = &startup.images;
    let page = sys::page_size();
    let opened = OpenedDir::of_file(File::from(checkpoint), dir)
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    let manifest = Manifest::identified(&opened).map_err(|error| error.to_string())?;
    let (manifest, fingerprint) = manifest.ok_or("the checkpoint has lost its manifest")?;
    // The digests of all files are in the manifest that the restore has verified.
    if fingerprint != startup.fingerprint {
        return Err("the checkpoint was replaced while it was restored".to_owned());
    }
    let memory = Memory::open(&opened, &manifest, &startup.store, page)
        .map_err(|error| error.to_string())?;
    let mut source = Source::new(memory, listener, page, startup.threads, about_to_run)
        .map_err(|error| format!("cannot start a page source: {error}"))?;
    let touches = TouchCache::of(&fingerprint);
    source.expect(touches.earlier());
    Ok((source, touches))
}
