//! The session of `cedana-runc restore` with its page source.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::lazy::SOCKET;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::control::Control;
use super::kill;
use super::messages::{Container, Startup, ToRestore, ToSource};
use super::progress::Progress;
use crate::host::procfs;
use crate::host::sys;
use crate::output::units::micros;
use cedana_contract::flags;
use cedana_contract::pid::Pid;

/// The name of the page source in its command line. The name of this program is not
/// in it: a user that kills `cedana-runc` by name means restores.
const NAME: &str = "cedana-pages";

/// How long a source that serves no container may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The settings of a page source.
pub struct Settings<'a> {
    /// The container's ID, or the name of what is restored.
    pub id: &'a str,
    /// The checkpoint's directory, or its archive, which the restore has verified. The
    /// source reads this one: another may have the path by now, and a user may have chosen
    /// the path.
    pub opened: BorrowedFd<'a>,
    /// Its path, for messages.
    pub images: &'a Path,
    /// The directory of the node's store, which may have the memory.
    pub store: &'a Path,
    /// The digest of the verified manifest's text.
    pub fingerprint: &'a str,
    /// The directory that gets the reason of a kill.
    pub report: Option<&'a Path>,
    /// The number of threads that prefetch.
    pub threads: usize,
    /// The container's `oom_score_adj`.
    pub oom_score_adj: Option<i64>,
    /// When the restore began.
    pub begun: Instant,
    /// The log, and whether its lines are JSON.
    pub log: (Option<&'a Path>, bool),
    /// A test's fifo: prefetching waits until it is readable.
    pub gate: Option<PathBuf>,
}

/// A page source, as `cedana-runc restore` knows it.
pub struct Session {
    /// `None` after [`Self::detach`].
    child: Option<Child>,
    control: Control,
    socket: PathBuf,
    progress: Progress,
}

impl Session {
    /// Starts a page source. CRIU connects to it in CRIU's working directory.
    pub fn start(settings: &Settings<'_>, work: &Path) -> io::Result<Self> {
        let socket = work.join(SOCKET);
        let listener = bind(work)?;
        let (control, theirs) = Control::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(NAME)
            .arg(flags::PAGE_SOURCE)
            .current_dir("/")
            .stdin(theirs)
            .stdout(OwnedFd::from(listener))
            .stderr(settings.opened.try_clone_to_owned()?);
        sys::set_apart(&mut command);
        let child = command.spawn()?;
        let (log, log_json) = settings.log;
        let startup = Startup {
            id: settings.id.to_owned(),
            images: std::path::absolute(settings.images)?,
            store: settings.store.to_owned(),
            fingerprint: settings.fingerprint.to_owned(),
            report: settings.report.map(Path::to_owned),
            threads: settings.threads,
            oom_score_adj: settings.oom_score_adj,
            elapsed_us: micros(settings.begun.elapsed()),
            log: log.map(std::path::absolute).transpose()?,
            log_json,
            gate: settings.gate.clone(),
        };
        // A path that isn't UTF-8 is an error here.
        control.send(&serde_json::to_value(&startup)?);
        Ok(Self {
            child: Some(child),
            control,
            socket,
            progress: Progress::Restoring,
        })
    }

    /// A descriptor that polls readable when [`Self::hear`] has a message to read.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.control.try_clone()
    }

    /// Reads the messages that have arrived while the runtime is at work. `find`
    /// returns the container. Returns whether more messages may follow.
    pub fn hear(&mut self, find: impl Fn() -> Option<Container>) -> bool {
        loop {
            match self.control.try_receive() {
                Ok(Some(message)) => self.take(message, &find),
                Ok(None) => {
                    self.closed();
                    return false;
                }
                Err(_) => return true,
            }
        }
    }

    fn take(&mut self, message: ToRestore, find: &impl Fn() -> Option<Container>) {
        // After a failure, too: in the foreground the runtime would wait for ever
        // for a container that the watchdog can't kill.
        let needs_container = matches!(message, ToRestore::Finished | ToRestore::Failed { .. });
        self.progress.receive(message);
        if needs_container {
            self.send_container(find);
        }
    }

    /// Sends the container, once, to the source or its watchdog.
    fn send_container(&mut self, find: &impl Fn() -> Option<Container>) {
        if !self.progress.needs_container() {
            return;
        }
        if let Some(container) = find() {
            self.control.send(&ToSource::Container(container));
            self.progress.set_container_sent();
        }
    }

    fn closed(&mut self) {
        self.wait();
        self.progress.closed();
    }

    /// Waits, after a restore that succeeded, until the source knows the container.
    /// Returns the reason if the container must not go on.
    pub fn confirm(&mut self, find: impl Fn() -> Option<Container>) -> Option<String> {
        if self.progress.may_run() {
            self.send_container(&find);
        }
        self.control.send(&ToSource::RuntimeEnded);
        while let Progress::Restoring | Progress::Running { .. } = self.progress {
            if self.progress.may_run() && self.progress.needs_container() {
                self.progress.fail("the runtime doesn't know it");
                break;
            }
            match self.control.receive() {
                Some(message) => self.take(message, &find),
                None => self.closed(),
            }
        }
        self.progress.failure()
    }

    /// Why the source failed, as far as it has reported.
    pub fn failure(&mut self) -> Option<String> {
        self.catch_up();
        self.progress.failure()
    }

    /// Why the source failed, after a restore in which CRIU has lost it: waits until
    /// the source, or its watchdog, has reported.
    pub fn last_word(&mut self) -> Option<String> {
        // A source to which CRIU never connected ends then, without a failure.
        self.control.send(&ToSource::RuntimeEnded);
        while !matches!(self.progress, Progress::Failed { .. } | Progress::CriuEnded) {
            let mut ready = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
            if !matches!(poll(&mut ready, timeout), Ok(1..)) {
                break;
            }
            match self.control.try_receive() {
                Ok(Some(message)) => self.take(message, &|| None),
                Ok(None) => {
                    self.closed();
                    break;
                }
                Err(_) => {}
            }
        }
        self.progress.failure()
    }

    /// Whether CRIU may have let the container run.
    pub fn may_run(&mut self) -> bool {
        self.catch_up();
        self.progress.may_run()
    }

    fn catch_up(&mut self) {
        while let Ok(Some(message)) = self.control.try_receive() {
            self.take(message, &|| None);
        }
    }

    /// Leaves the source of a restore that succeeded to itself. A program that goes on
    /// for long must wait for it, so that it does not stay a zombie.
    pub fn detach(mut self) {
        let mut child = self.child.take();
        // The thread ends with the source. Without a thread it stays a zombie.
        let _ = std::thread::Builder::new()
            .name("pages".to_owned())
            .stack_size(64 << 10)
            .spawn(move || child.as_mut().map(Child::wait));
    }

    /// Ends the source of a restore that has failed: CRIU has hung up, or has
    /// never connected.
    pub fn end(mut self) {
        self.control.shut_down();
        let Some(child) = &self.child else { return };
        if sys::pidfd_open(Pid::of(child))
            .is_ok_and(|source| kill::ends_within(source.as_fd(), PATIENCE))
        {
            self.wait();
        }
    }

    fn wait(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // CRIU has connected, or never will.
        let _ = fs::remove_file(&self.socket);
    }
}

/// Listens in a directory. Its path may be longer than a socket's can be.
fn bind(work: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(work.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = fs::File::open(work)?;
    UnixListener::bind(procfs::descriptor(&dir).join(SOCKET))
}
