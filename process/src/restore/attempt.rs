//! One attempt at a restore: the page source, and CRIU.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::log::{diagnose, diagnosed_own_reason};
use cedana_checkpoint::criu::log_archive::archive;
use cedana_checkpoint::criu::rpc::{self, Answer, Request};
use cedana_checkpoint::format::manifest::{Manifest, Process};
use cedana_checkpoint::format::publish::Scratch;
use cedana_checkpoint::host::{process_tree, procfs};
use cedana_checkpoint::images::Ids;
use cedana_checkpoint::session::{Container, Session, Settings};
use cedana_checkpoint::view::ImagesView;
use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;

use super::{RestoreOptions, Tcp, placement, processes};
use crate::cancel::Cancel;
use crate::error::Error;
use crate::reopen::INHERITED;
use crate::swrk::Swrk;
use crate::work;

const LOG: &str = "restore.log";

/// How long CRIU may take to undo a restore. CRIU 4.2 can hang when it fails with all
/// processes in its hands.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) criu: &'a Path,
    pub(super) source: &'a Path,
    pub(super) manifest: &'a Manifest,
    pub(super) process: &'a Process,
    pub(super) ids: &'a Ids,
    /// Whether the processes get a PID namespace.
    pub(super) namespace: bool,
    pub(super) inherit: &'a [(String, &'a OwnedFd)],
    pub(super) options: &'a RestoreOptions,
    pub(super) cancel: &'a Cancel,
    pub(super) begun: Instant,
}

/// Restored processes.
pub(super) struct Runs {
    pub(super) pid: Pid,
    pub(super) child: Pid,
    pub(super) inside: Option<Pid>,
}

/// The end of an attempt.
pub(super) enum Outcome {
    /// The process runs.
    Runs(Runs),
    /// Nothing runs.
    Failed {
        error: Error,
        /// Another attempt would not help.
        final_: bool,
    },
}

impl Attempt<'_> {
    pub(super) fn run(&self, view: &ImagesView) -> Result<Outcome, Error> {
        let in_work = Error::system("make a directory in /run/cedana");
        let work = work::directory().map_err(&in_work)?;
        let served = view.path().unwrap_or_else(|| self.source.to_owned());
        let images = File::open(served).map_err(Error::system("open the checkpoint's view"))?;
        let mut session = match view.is_lazy() {
            true => Some(self.page_source(view, &work.path()).map_err(&in_work)?),
            false => None,
        };
        let copies: Result<Vec<OwnedFd>, Error> =
            self.inherit.iter().map(|(_, fd)| above(fd)).collect();
        let copies = copies?;
        let mut kept: Vec<BorrowedFd<'_>> = copies.iter().map(AsFd::as_fd).collect();
        let swrk = match self.namespace {
            true => {
                // CRIU finds them in its peer, the namespace's init.
                kept.extend([images.as_fd(), work.as_fd()]);
                Swrk::start_in_namespace(self.criu, &kept)
            }
            false => Swrk::start(self.criu, &kept),
        };
        let swrk = swrk.map_err(Error::system("run CRIU"))?;
        let request = Request::Restore(self.request(&images, &work, &copies, session.is_some()));
        let sent = swrk.send(&request);
        let sent = sent.map_err(Error::system("send CRIU its request"));
        let pid = sent.and_then(|()| self.serve(&swrk, session.as_mut()));
        if !matches!(pid, Ok(Some(_))) && self.namespace {
            // What CRIU left ends with the namespace.
            swrk.kill();
        }
        let restored = matches!(pid, Ok(Some(_)));
        let ended = swrk
            .wait(restored)
            .map_err(Error::system("wait for CRIU"))?;
        let killed = ended.0.as_ref().and_then(ExitStatusExt::signal);
        let runs = match (pid?, ended) {
            (Some(pid), (Some(status), _)) if status.success() => Runs {
                pid,
                child: pid,
                inside: None,
            },
            (Some(pid), (None, Some(keeper))) => match placement::outside(pid, Pid::of(&keeper)) {
                Some(outside) => Runs {
                    pid: outside,
                    child: Pid::of(&keeper),
                    inside: Some(pid),
                },
                None => return Ok(self.failed(view, session, &work, killed)),
            },
            _ => return Ok(self.failed(view, session, &work, killed)),
        };
        if let Some(session) = session {
            let served = match runs.inside {
                // The kernel kills a namespace with its init, which dies with its keeper.
                Some(_) => Container::tree(runs.child, &[runs.child]),
                None => Container::tree(runs.pid, &processes(self.ids)),
            };
            if let Some(why) = confirm(session, &served) {
                process_tree::kill(runs.child);
                while waitpid(nix::unistd::Pid::from(runs.child), None) == Err(Errno::EINTR) {}
                let error = self.error(why, &work);
                return Ok(Outcome::Failed {
                    error,
                    final_: true,
                });
            }
        }
        Ok(Outcome::Runs(runs))
    }

    fn page_source(&self, view: &ImagesView, work: &Path) -> std::io::Result<Session> {
        let settings = Settings {
            id: self.name(),
            opened: view.opened().as_fd(),
            images: self.source,
            store: &self.options.store,
            fingerprint: view.fingerprint().unwrap_or_default(),
            report: self.options.report.as_deref(),
            threads: self.options.threads,
            oom_score_adj: None,
            begun: self.begun,
            log: (None, false),
            gate: None,
        };
        Session::start(&settings, work)
    }

    fn name(&self) -> &str {
        match self.options.name.is_empty() {
            true => &self.process.name,
            false => &self.options.name,
        }
    }

    fn request(
        &self,
        images: &File,
        work: &Scratch,
        copies: &[OwnedFd],
        lazy: bool,
    ) -> rpc::Restore {
        let was = |name: &str| {
            self.manifest
                .options
                .get(name)
                .is_some_and(|value| value == true)
        };
        let close = self.options.tcp == Tcp::Close;
        rpc::Restore {
            common: rpc::Common {
                images: images.as_raw_fd(),
                work: work.as_fd().as_raw_fd(),
                log: LOG.to_owned(),
                tcp_established: was("tcp_established") && !close,
                file_locks: was("file_locks"),
                shell_job: was("shell_job"),
                link_remap: was("link_remap"),
            },
            tcp_close: close,
            lazy_pages: lazy,
            leave_stopped: self.options.leave_stopped,
            inherit: self
                .inherit
                .iter()
                .zip(copies)
                .map(|((key, _), copy)| (key.clone(), copy.as_raw_fd()))
                .collect(),
        }
    }

    /// Answers CRIU's questions and the page source's until CRIU's end. Returns the
    /// process, if CRIU restored it.
    fn serve(&self, swrk: &Swrk, mut session: Option<&mut Session>) -> Result<Option<Pid>, Error> {
        let mut restored = None;
        let mut refused: Option<Instant> = None;
        let mut messages = match &session {
            Some(session) => session.descriptor().ok(),
            None => None,
        };
        loop {
            let mut ready = vec![
                PollFd::new(swrk.messages(), PollFlags::POLLIN),
                PollFd::new(swrk.ended(), PollFlags::POLLIN),
            ];
            if refused.is_none() {
                ready.push(PollFd::new(self.cancel.as_fd(), PollFlags::POLLIN));
            }
            let hears = messages.as_ref().map(|messages| {
                ready.push(PollFd::new(messages.as_fd(), PollFlags::POLLIN));
                ready.len() - 1
            });
            let timeout = match refused {
                Some(_) => PollTimeout::from(250u16),
                None => PollTimeout::NONE,
            };
            match poll(&mut ready, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("wait for CRIU")(errno.into())),
            }
            let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any() == Some(true));
            let ended = is_ready(1);
            if hears.is_some_and(is_ready)
                && let Some(session) = &mut session
                && !session.hear(|| None)
            {
                messages = None;
            }
            if self.cancel.is_cancelled() && refused.is_none() && restored.is_none() {
                // CRIU's next question is answered with no.
                refused = Some(Instant::now());
            }
            loop {
                match swrk.receive() {
                    Ok(Some(Answer::Notify { .. })) => {
                        let success = refused.is_none();
                        // CRIU may have been killed; its end says so.
                        let _ = swrk.send(&Request::Notified { success });
                    }
                    Ok(Some(Answer::Done { success, pid })) => {
                        restored = pid.filter(|_| success).and_then(|pid| pid.try_into().ok());
                    }
                    Ok(None) => return Ok(restored),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(Error::system("read CRIU's answer")(error)),
                }
            }
            if ended {
                return Ok(restored);
            }
            if restored.is_none() && refused.is_some_and(|since| since.elapsed() > PATIENCE) {
                self.end_processes();
                swrk.kill();
            }
        }
    }

    /// Nothing was restored: ends what CRIU left, and says why.
    fn failed(
        &self,
        view: &ImagesView,
        session: Option<Session>,
        work: &Scratch,
        killed: Option<i32>,
    ) -> Outcome {
        self.end_processes();
        let (mut may_run, mut word) = (false, None);
        let was_lazy = session.is_some();
        if let Some(mut session) = session {
            may_run = session.may_run();
            word = session.last_word();
            session.end();
        }
        if self.cancel.is_cancelled() {
            return Outcome::Failed {
                error: Error::Cancelled,
                final_: true,
            };
        }
        let log = work.path().join(LOG);
        let found = diagnose(&log).unwrap_or_default();
        let damage = view.damage().map(|damage| damage.to_string());
        let killed = || killed.map(|signal| format!("CRIU was killed by signal {signal}"));
        let own = || found.sentence().filter(|_| diagnosed_own_reason(&found));
        let why = damage
            .clone()
            .or_else(own)
            .or(word)
            .or_else(|| found.sentence())
            .or_else(killed)
            .unwrap_or_else(|| "CRIU failed and its log has no error".to_owned());
        Outcome::Failed {
            error: self.error(why, work),
            final_: !was_lazy || may_run || damage.is_some(),
        }
    }

    fn error(&self, why: String, work: &Scratch) -> Error {
        let (dir, keep) = &self.options.logs;
        let log = archive(dir, *keep, self.name(), "restore", &work.path().join(LOG));
        Error::Restore {
            path: self.source.to_owned(),
            why,
            log,
        }
    }

    /// Ends the processes that a CRIU without success left. Their IDs were free before, so
    /// a child of this process that has the root's is CRIU's.
    fn end_processes(&self) {
        if self.namespace {
            return;
        }
        let root = processes(self.ids).into_iter().next();
        let is_ours =
            |pid: Pid| procfs::Stat::read(pid).is_some_and(|stat| stat.parent == Some(Pid::own()));
        if let Some(root) = root.filter(|root| is_ours(*root)) {
            process_tree::kill(root);
            while waitpid(nix::unistd::Pid::from(root), None) == Err(Errno::EINTR) {}
        }
    }
}

/// Waits until the page source knows the processes. Returns the reason if they must not
/// go on.
fn confirm(mut session: Session, served: &Container) -> Option<String> {
    let why = session.confirm(|| Some(served.clone()));
    if why.is_none() {
        session.detach();
    }
    why
}

/// A copy of a descriptor with a high number.
fn above(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    use std::os::fd::FromRawFd;
    let copied = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(INHERITED));
    let copied = copied.map_err(|errno| Error::system("copy a descriptor")(errno.into()))?;
    // SAFETY: the kernel just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copied) })
}
