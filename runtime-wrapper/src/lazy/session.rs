//! `cedana-runc restore`'s side of its page source.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cedana_checkpoint::lazy::SOCKET;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::control::{Control, text};
use super::kill;
use crate::host::child::Next;
use crate::host::{sys, test_hooks};
use crate::oci::state::Container;
use crate::output::report::Reporter;
use cedana_contract::flags;

/// The name of the page source, as long as the guard's ([`sys::rename`]). The
/// name of this program is not in it: who kills that by name means restores.
const NAME: &str = "cedana-pages";

/// How long a source may take to end that serves no container.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the source is to know.
pub(crate) struct Settings<'a> {
    pub(crate) id: &'a str,
    pub(crate) images: &'a Path,
    pub(crate) bundle: &'a Path,
    pub(crate) threads: usize,
    /// The container's `oom_score_adj`.
    pub(crate) oom_score_adj: Option<i64>,
    pub(crate) begun: Instant,
    pub(crate) reporter: &'a Reporter,
}

/// A page source, and how far it is.
pub(crate) struct Session {
    child: Child,
    control: Control,
    socket: PathBuf,
    finished: bool,
    told: bool,
    served: bool,
    /// CRIU ended before the restore was finished: CRIU knows why.
    unfinished: bool,
    failure: Option<String>,
}

impl Session {
    /// Starts a page source, to which CRIU connects in its working directory.
    pub(crate) fn start(settings: &Settings<'_>, work: &Path) -> io::Result<Self> {
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
            .stderr(Stdio::null());
        sys::set_apart(&mut command);
        let child = command.spawn()?;
        let (log, log_json) = settings.reporter.log();
        let absolute = |path: &Path| std::path::absolute(path);
        control.say(&json!({
            "id": settings.id,
            "images": absolute(settings.images)?,
            "bundle": absolute(settings.bundle)?,
            "threads": settings.threads,
            "oom_score_adj": settings.oom_score_adj,
            "elapsed_us": u64::try_from(settings.begun.elapsed().as_micros()).unwrap_or(0),
            "log": log.map(absolute).transpose()?,
            "log_json": log_json,
            "gate": test_hooks::prefetch_gate(),
        }));
        Ok(Self {
            child,
            control,
            socket,
            finished: false,
            told: false,
            served: false,
            unfinished: false,
            failure: None,
        })
    }

    /// Readable when [`Self::hear`] has something to hear.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.control.try_clone()
    }

    /// Hears what there is to hear while the runtime is at work. `find` gives
    /// the container.
    pub(crate) fn hear(&mut self, find: impl Fn() -> Option<Container>) -> Next {
        loop {
            match self.control.look() {
                Ok(Some(message)) => self.take(&message, &find),
                Ok(None) => {
                    self.lost();
                    return Next::Done;
                }
                Err(_) => return Next::Again,
            }
        }
    }

    fn take(&mut self, message: &Value, find: &impl Fn() -> Option<Container>) {
        match text(message, "say") {
            Some("finished") => {
                self.finished = true;
                self.tell(find);
            }
            Some("served") => self.served = true,
            Some("unfinished") => self.unfinished = true,
            Some("failed") => {
                let reason = text(message, "reason").unwrap_or("its page source failed");
                self.failure = Some(reason.to_owned());
                // In the foreground the runtime would wait for it for ever.
                self.tell(find);
            }
            _ => {}
        }
    }

    /// Tells whom to kill, should it come to that. Once is enough.
    fn tell(&mut self, find: &impl Fn() -> Option<Container>) {
        if self.told {
            return;
        }
        if let Some(container) = find() {
            let cgroup = container.cgroup.as_deref();
            self.control.say(&kill::describe(container.init, cgroup));
            self.told = true;
        }
    }

    /// The other end is closed: the source has ended, and its guard.
    fn lost(&mut self) {
        let _ = self.child.wait();
        if !self.served && !self.unfinished {
            let lost = || "its page source is gone".to_owned();
            self.failure.get_or_insert_with(lost);
        }
    }

    /// After a restore that succeeded: waits until the source knows whom it
    /// serves. The reason, if the container must not go on.
    pub(crate) fn confirm(&mut self, find: impl Fn() -> Option<Container>) -> Option<String> {
        if self.finished {
            self.tell(&find);
        }
        self.control.say(&json!({"say": "ended"}));
        while !self.served && self.failure.is_none() {
            match self.control.wait() {
                Some(message) => self.take(&message, &find),
                None => self.lost(),
            }
            if self.finished && !self.told {
                self.failure
                    .get_or_insert_with(|| "the runtime doesn't know it".to_owned());
            }
        }
        self.failure.clone()
    }

    /// What the source could not do, as far as it has said so.
    pub(crate) fn failure(&mut self) -> Option<String> {
        self.catch_up();
        self.failure.clone()
    }

    /// Why the source failed, after a restore in which CRIU has lost it: waits until
    /// the source, or its guard, has said so.
    pub(crate) fn last_word(&mut self) -> Option<String> {
        // A source to which CRIU never came ends then, without a word.
        self.control.say(&json!({"say": "ended"}));
        while self.failure.is_none() && !self.unfinished {
            let mut ready = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
            if !matches!(poll(&mut ready, timeout), Ok(1..)) {
                break;
            }
            match self.control.look() {
                Ok(Some(message)) => self.take(&message, &|| None),
                Ok(None) => {
                    self.lost();
                    break;
                }
                Err(_) => {}
            }
        }
        self.failure.clone()
    }

    /// Whether CRIU may have set the container going.
    pub(crate) fn may_run(&mut self) -> bool {
        self.catch_up();
        self.finished || self.served
    }

    fn catch_up(&mut self) {
        while let Ok(Some(message)) = self.control.look() {
            self.take(&message, &|| None);
        }
    }

    /// Ends the source of a restore that has failed: CRIU has hung up, or has
    /// never connected.
    pub(crate) fn end(mut self) {
        self.control.hang_up();
        let pid = self.child.id().cast_signed();
        if sys::pidfd_open(pid).is_ok_and(|source| kill::ends_within(source.as_fd(), PATIENCE)) {
            let _ = self.child.wait();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // CRIU has connected, or will not.
        let _ = fs::remove_file(&self.socket);
    }
}

/// Listens in a directory whose path may be longer than a socket's can be.
fn bind(work: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(work.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = fs::File::open(work)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}
