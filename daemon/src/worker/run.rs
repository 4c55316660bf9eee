//! The worker itself: one task, then the end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cedana_api::time::now_micros;
use cedana_contract::pid::Pid;
use cedana_process as engine;
use cedana_process::{Accept, Cancel, Hook, Observer, Placement, Source, Target, Tcp};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;

use super::FLAG;
use super::failure::{Failure, Kind};
use super::held;
use super::task::{Dump, Dumped, Progress, Restore, Restored, Stored, Task, Told};
use super::transfer;
use crate::job::bytes::Bytes;
use crate::job::files::append_record;
use crate::supervisor::protocol::{Decoder, Frame, put_message};

/// Runs the worker if this process was started as one.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != FLAG {
        return None;
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        // The other end of the socket is told by its end.
        Err(_) => ExitCode::FAILURE,
    })
}

fn run() -> io::Result<()> {
    crate::sys::close_others_on_exec()?;
    let _ = prctl::set_name(c"cedana-worker");
    // CRIU's helpers get /dev/null as their standard input.
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    let (task, socket) = receive(socket)?;
    let teller = Arc::new(Teller(Mutex::new(socket.try_clone()?)));
    let cancel = Cancel::new()?;
    watch(socket, cancel.clone())?;
    let told = match task {
        Task::Dump(task) => dump(&task, &cancel, &teller),
        Task::Restore(task) => restore(&task, &cancel),
        Task::Export(task) => transfer::export(&task, &cancel, &*observer(&teller)),
        Task::Import(task) => transfer::import(&task, &cancel, &*observer(&teller)),
    };
    teller.tell(&told.unwrap_or_else(Told::Failed));
    Ok(())
}

fn receive(mut socket: UnixStream) -> io::Result<(Task, UnixStream)> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        let frame = decoder.take_frame().map_err(io::Error::other)?;
        match frame {
            Some(Frame::Message(task)) => return Ok((task, socket)),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => match socket.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => decoder.push(&buffer[..n]),
            },
        }
    }
}

/// Cancels when the other end is closed. Nothing more is sent on the socket.
fn watch(mut socket: UnixStream, cancel: Cancel) -> io::Result<()> {
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            let mut buffer = [0; 64];
            while socket.read(&mut buffer).is_ok_and(|n| n > 0) {}
            cancel.cancel();
        })?;
    Ok(())
}

/// The socket, on which several threads tell.
struct Teller(Mutex<UnixStream>);

impl Teller {
    fn tell(&self, told: &Told) {
        let mut frame = Vec::new();
        put_message(&mut frame, told);
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Its end cancels the task.
        let _ = socket.write_all(&frame);
    }

    /// Tells progress unless the other end is busy.
    fn try_tell(&self, told: &Told) {
        let has_room = || {
            let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        };
        if has_room() {
            self.tell(told);
        }
    }
}

fn path(bytes: &Bytes) -> PathBuf {
    bytes.as_path().to_owned()
}

fn bytes(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

fn dump(task: &Dump, cancel: &Cancel, teller: &Arc<Teller>) -> Result<Told, Failure> {
    let pid: Pid = task.pid.try_into().map_err(|_| Failure {
        kind: Kind::Invalid,
        text: format!("{} is not a process ID", task.pid),
    })?;
    let target = Target::Archive {
        dir: path(&task.directory),
        owner: task.owner.of_engine(),
    };
    let options = engine::DumpOptions {
        name: task.name.clone(),
        user: Some(task.user.of_engine()),
        leave_running: task.leave_running,
        shell_job: task.shell_job,
        held: held(task.terminal),
        output: task.output.as_ref().map(path),
        published: Some(hook(task, teller)),
        ..task.engine.dump_options()
    };
    let observer = observer(teller);
    let report = engine::dump(pid, &target, &options, cancel, &observer).map_err(failure)?;
    let frozen = report.criu.filter(|_| task.leave_running);
    Ok(Told::Dumped(Dumped {
        path: bytes(&report.path),
        raw_bytes: report.raw_bytes,
        stored_bytes: report.stored_bytes,
        frozen_us: frozen.map_or(0, |cost| cost.frozen_us.into()),
        total_us: u64::try_from(report.total.as_micros()).unwrap_or(u64::MAX),
    }))
}

/// Tells progress.
fn observer(teller: &Arc<Teller>) -> Arc<Observer> {
    let teller = Arc::clone(teller);
    Arc::new(move |now| teller.try_tell(&Told::Progress(Progress::of_engine(now))))
}

/// What is done when the checkpoint is on disk, before the process ends: the job's record
/// has it, and the supervisor knows it.
fn hook(task: &Dump, teller: &Arc<Teller>) -> Hook {
    let (file, ends, teller) = (task.record.clone(), !task.leave_running, Arc::clone(teller));
    Hook::new(move |published| {
        let stored = Stored {
            path: bytes(&published.path),
            at: now_micros(),
            bytes: published.path.metadata()?.len(),
            ends,
        };
        if let Some(file) = &file {
            append_record(file.as_path(), &stored)?;
        }
        teller.tell(&Told::Stored(stored));
        Ok(())
    })
}

fn restore(task: &Restore, cancel: &Cancel) -> Result<Told, Failure> {
    let settings = &task.engine;
    let taken = |fd: Option<i32>| {
        fd.map(take).transpose().map_err(|error| Failure {
            kind: Kind::System,
            text: format!("cannot use a descriptor of the supervisor: {error}"),
        })
    };
    let (terminal, output) = (taken(task.terminal)?, taken(task.output)?);
    let mut stdio = Vec::new();
    if let Some(output) = output {
        for number in [1, 2] {
            let copy = output.try_clone().map_err(|error| Failure {
                kind: Kind::System,
                text: format!("cannot copy a descriptor: {error}"),
            })?;
            stdio.push((number, copy));
        }
    }
    let options = engine::RestoreOptions {
        name: task.name.clone(),
        tcp: match task.tcp_close {
            true => Tcp::Close,
            false => Tcp::Keep,
        },
        placement: Placement::Auto,
        leave_stopped: task.leave_stopped,
        lazy: settings.lazy,
        threads: settings.threads,
        memory: settings.restore_memory,
        accept: match (settings.signed, settings.any) {
            (true, _) => Accept::Signed,
            (_, true) => Accept::Any,
            _ => Accept::Ours,
        },
        store: path(&settings.store),
        stdio,
        terminal,
        owner: task.owner.of_engine(),
        report: Some(path(&task.report)),
        logs: settings.logs(),
    };
    let source = Source::open(task.path.as_path(), &task.reader.of_engine()).map_err(failure)?;
    let restored = engine::restore(&source, &options, cancel).map_err(failure)?;
    Ok(Told::Restored(Restored {
        pid: restored.pid.as_raw(),
        child: restored.child.as_raw(),
        lazy: restored.lazy,
        warnings: restored.warnings,
    }))
}

/// Takes a descriptor that this process was started with.
fn take(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the parent has passed it for this use, and nothing else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

fn failure(error: engine::Error) -> Failure {
    let kind = match &error {
        engine::Error::Full { .. } => Kind::Full,
        engine::Error::Cancelled => Kind::Cancelled,
        engine::Error::System { .. } => Kind::System,
        _ => Kind::State,
    };
    Failure::new(kind, error.to_string())
}
