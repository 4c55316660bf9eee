//! The supervisor's loop.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use cedana_api::time::now_micros;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stdin, dup2_stdout, setsid};

use super::backoff::Backoff;
use super::clients::{Clients, Role};
use super::descendants::Stat;
use super::program::{self, Program};
use super::protocol::{Answer, Frame, Phase, Request, Started, Status};
use super::state::{Stage, Supervisor};
use super::{report, restored};
use crate::job::files::JobFiles;
use crate::job::spec::TerminalSize;
use crate::worker::Told;

/// Supervises one job until it has ended.
///
/// # Errors
/// Why the program could not be started the first time, or restored.
pub(super) fn supervise(files: JobFiles) -> Result<(), Started> {
    let failed = |what: &str, error: io::Error| Started::Failed(format!("cannot {what}: {error}"));
    let signals = detach().map_err(|error| failed("set up the job's supervisor", error.into()))?;
    let spec = files
        .spec()
        .map_err(|error| failed("read spec.json of the job", error))?;
    let output = program::open_output(&files, &spec)
        .map_err(|error| failed("open the job's output.log", error))?;
    let listener = UnixListener::bind(files.socket())
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| failed("open the job's socket", error))?;
    let size = spec.terminal.unwrap_or(TerminalSize {
        rows: 24,
        columns: 80,
    });
    let restore = files
        .take_restore()
        .map_err(|error| failed("read restore.json of the job", error))?;
    let (program, restored) = match restore {
        None => {
            let program = program::start(&spec, &output, size).map_err(Started::Failed)?;
            (program, None)
        }
        Some(task) => {
            let (program, restored) =
                restored::start(task, &spec, &output, size).map_err(Started::NotRestored)?;
            (program, Some(restored))
        }
    };
    let status = Status {
        phase: Phase::Running(program.pid),
        since: started_at(program.pid),
        restarts: 0,
        supervisor: std::process::id(),
    };
    if restored.is_some() {
        // How it ended before says nothing any more.
        files
            .forget_end()
            .map_err(|error| failed("remove exit.json of the job", error))?;
    }
    report(&match restored {
        None => Started::Running(status.clone()),
        Some(restored) => Started::Restored(status.clone(), restored),
    });
    // The daemon reads until the end of this pipe.
    File::open("/dev/null")
        .and_then(|null| {
            dup2_stdout(&null)?;
            Ok(dup2_stdin(null)?)
        })
        .map_err(|error| failed("leave the daemon", error))?;
    Supervisor {
        files,
        spec,
        output,
        signals,
        listener,
        clients: Clients::default(),
        stage: Stage::Running(program),
        status,
        typed: Vec::new(),
        size,
        started: Instant::now(),
        backoff: Backoff::default(),
        ended_by_user: false,
        dumping: None,
        ending: None,
        orphan: None,
    }
    .run();
    Ok(())
}

/// When a process was started, in microseconds since 1970: CRIU may have made it long ago.
/// The daemon knows the process by this.
fn started_at(pid: i32) -> i64 {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    Stat::parse(&stat).map_or_else(now_micros, |stat| stat.started_at())
}

/// Leaves the daemon's session, adopts orphans, and takes signals as data.
fn detach() -> nix::Result<SignalFd> {
    // Fails only if it is the leader of a group, so it has left already.
    let _ = setsid();
    // Whatever the daemon had open is not ours; nor is it the program's.
    crate::sys::close_others_on_exec()?;
    prctl::set_name(c"cedana-job")?;
    prctl::set_child_subreaper(true)?;
    // The program's memory is what should be freed, not its supervisor. Needs
    // CAP_SYS_RESOURCE.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

impl Supervisor {
    fn run(mut self) {
        loop {
            if let Stage::Leaving(until) = self.stage
                && (!self.clients.are_behind() || Instant::now() >= until)
            {
                return;
            }
            self.wait_and_handle();
            self.clients.sweep();
            self.cancel_dump_of_gone_client();
        }
    }

    /// Polls once, and handles what has happened.
    fn wait_and_handle(&mut self) {
        let timeout = self.timeout();
        let full = self.clients.are_full();
        let typing_allowed = self.typed.len() < super::protocol::MAX_PAYLOAD;
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for client in &self.clients.0 {
            fds.push(PollFd::new(
                client.stream.as_fd(),
                client.interest(typing_allowed),
            ));
        }
        if let Stage::Running(Program {
            terminal: Some(terminal),
            ..
        }) = &self.stage
        {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::POLLIN, !full);
            interest.set(PollFlags::POLLOUT, !self.typed.is_empty());
            fds.push(PollFd::new(terminal.master.as_fd(), interest));
        }
        let of_worker = fds.len();
        if let Some(dumping) = self.dumping.as_ref().filter(|dumping| !dumping.is_silent) {
            fds.push(PollFd::new(dumping.stream.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Only out of memory. The next round tries again.
            Err(_) => return,
        }
        let happened = |index: usize| {
            fds.get(index)
                .and_then(PollFd::revents)
                .unwrap_or(PollFlags::empty())
        };
        let (signal, connection) = (happened(0), happened(1));
        let clients = self.clients.0.len();
        let of_clients: Vec<_> = (0..clients).map(|n| happened(2 + n)).collect();
        let of_terminal = match of_worker > 2 + clients {
            true => happened(2 + clients),
            false => PollFlags::empty(),
        };
        let of_worker = happened(of_worker);
        if of_terminal.contains(PollFlags::POLLOUT) {
            self.type_queued();
        }
        if of_terminal.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            self.show_output();
        }
        for (index, events) in of_clients.into_iter().enumerate() {
            if events.contains(PollFlags::POLLOUT) {
                self.clients.0[index].flush();
            }
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                for frame in self.clients.0[index].read() {
                    self.handle(index, frame);
                }
            }
        }
        if !connection.is_empty() {
            self.clients.accept(&self.listener);
        }
        if !of_worker.is_empty() {
            self.hear_worker();
        }
        if !signal.is_empty() {
            self.handle_signals();
        }
        if let Stage::Waiting(until, _) = self.stage
            && Instant::now() >= until
        {
            self.start_again();
        }
    }

    fn timeout(&mut self) -> PollTimeout {
        let until = match self.stage {
            Stage::Waiting(until, _) | Stage::Leaving(until) => until,
            // A full client must be disconnected some time.
            _ if self.clients.are_full() => Instant::now() + Duration::from_secs(1),
            _ => return PollTimeout::NONE,
        };
        // Rounded up, so that the time has come afterwards.
        let wait = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn handle(&mut self, client: usize, frame: Frame<Request>) {
        let answer = match frame {
            Frame::Message(Request::Watch) => {
                self.clients.0[client].role = Role::Watching;
                Answer::Status(self.status.clone())
            }
            Frame::Message(Request::Signal(signal)) => match self.signal(signal) {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Failed(why),
            },
            Frame::Message(Request::Attach(size)) if self.spec.terminal.is_some() => {
                self.clients.0[client].role = Role::Attached;
                self.resize(size);
                if let Stage::Running(Program {
                    terminal: Some(terminal),
                    ..
                }) = &self.stage
                {
                    terminal.redraw();
                }
                match self.stage {
                    Stage::Leaving(_) => Answer::Status(self.status.clone()),
                    _ => Answer::Done,
                }
            }
            Frame::Message(Request::Attach(_)) => {
                Answer::Failed("the job has no terminal".to_owned())
            }
            Frame::Message(Request::Dump(task)) => {
                let id = self.clients.0[client].id();
                match self.start_dump(id, *task) {
                    Ok(()) => return,
                    Err(failure) => Answer::Told(Told::Failed(failure)),
                }
            }
            Frame::Message(Request::Resize(size)) => {
                self.resize(size);
                return;
            }
            Frame::Data(data) => {
                if self.clients.0[client].role == Role::Attached {
                    self.typed.extend_from_slice(&data);
                    self.type_queued();
                }
                return;
            }
            Frame::Unknown => {
                Answer::Failed("the job's supervisor is older than the daemon".to_owned())
            }
        };
        self.clients.0[client].answer(&answer);
    }

    fn resize(&mut self, size: TerminalSize) {
        if size.rows == 0 || size.columns == 0 {
            return;
        }
        self.size = size;
        if let Stage::Running(Program {
            terminal: Some(terminal),
            ..
        }) = &self.stage
        {
            // Fails only on a terminal whose session has just ended.
            let _ = terminal.resize(size);
        }
    }

    fn type_queued(&mut self) {
        let Stage::Running(Program {
            terminal: Some(terminal),
            ..
        }) = &mut self.stage
        else {
            self.typed.clear();
            return;
        };
        while !self.typed.is_empty() {
            match terminal.master.write(&self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The session has ended.
                Err(_) => self.typed.clear(),
            }
        }
    }
}
