//! One attempt: CRIU, and beside it the capture of what it writes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedana_checkpoint::criu::log::diagnose;
use cedana_checkpoint::criu::log_archive::archive;
use cedana_checkpoint::criu::rpc::{self, Answer, Request};
use cedana_checkpoint::host::procfs::Init;
use cedana_checkpoint::inspect::dump_cost;
use cedana_checkpoint::progress::Observer;
use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::stored::{Criu, Storing, directory};
use super::{DumpOptions, Report};
use crate::cancel::Cancel;
use crate::destination::Target;
use crate::error::Error;
use crate::look::Tree;
use crate::options::Published;
use crate::swrk::Swrk;
use crate::work;

const LOG: &str = "dump.log";

/// What CRIU writes when it is done.
const STATS: &str = "stats-dump";

/// The step at which CRIU has written everything, and waits.
const POST_DUMP: &str = "post-dump";

/// How long CRIU may make no progress after the process was killed: CRIU 4.2 hangs for
/// ever if a process is killed while its code is in one of the threads.
const DEAD_ROOT: Duration = Duration::from_secs(5);

/// How often progress is looked for.
const LOOK: u16 = 250;

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) pid: Pid,
    pub(super) tree: &'a Tree,
    pub(super) criu: &'a Criu,
    pub(super) target: &'a Target,
    pub(super) options: &'a DumpOptions,
    pub(super) cancel: &'a Cancel,
}

/// A failed attempt. The process runs on.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether another attempt may succeed.
    pub(super) passes: bool,
}

/// What CRIU has written.
enum Images {
    Storing(Box<Storing>),
    Published(Published),
    Failed(Error),
}

impl Attempt<'_> {
    /// The name of the checkpoint.
    pub(super) fn name(&self) -> String {
        if !self.options.name.is_empty() {
            return self.options.name.clone();
        }
        let program = self.tree.command.first().map(String::as_str);
        let program = program.unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        name.to_owned()
    }

    pub(super) fn run(&self, observer: &Arc<Observer>) -> Result<Result<Report, Failure>, Error> {
        let storing = Storing::begin(self, observer)?;
        let path = storing.images();
        let images = directory(&path)?;
        let work = work::directory().map_err(Error::system("make a directory in /run/cedana"))?;
        let log = work.path().join(LOG);
        let start = storing.start;
        let swrk = match &self.tree.within {
            // CRIU finds them in its peer, the relay within.
            Some(within) => {
                let kept = [images.as_fd(), work.as_fd()];
                Swrk::start_within(&self.criu.0, &within.namespaces, &kept)
            }
            None => Swrk::start(&self.criu.0, &[]),
        };
        let swrk = swrk.map_err(Error::system("run CRIU"))?;
        let sent = swrk.send(&Request::Dump(
            self.request(images.as_raw_fd(), work.as_fd().as_raw_fd()),
        ));
        let sent = sent.map_err(Error::system("send CRIU its request"));
        let mut images_state = Images::Storing(Box::new(storing));
        let result = sent.and_then(|()| self.serve(&swrk, &mut images_state, &log, observer));
        let (status, _) = swrk.wait(false).map_err(Error::system("wait for CRIU"))?;
        let status = status.unwrap_or_default();
        let dumped = start.elapsed();
        let succeeded = result?.unwrap_or(false);
        let cost = dump_cost(&work.path()).ok().flatten();
        let published = match images_state {
            Images::Failed(error) => return Err(error),
            Images::Published(published) if succeeded => published,
            Images::Storing(storing) if succeeded && self.options.leave_running => {
                if self.cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                // The checkpoint has CRIU's statistics, as a runtime's has.
                let copied = fs::copy(work.path().join(STATS), storing.images().join(STATS));
                copied.map_err(Error::system("copy CRIU's statistics"))?;
                storing.publish(self, cost, observer)?
            }
            Images::Published(published) => {
                let why = format!(
                    "CRIU failed ({status}) when it was to end the process, which may run on; the checkpoint is complete: {}",
                    published.path.display()
                );
                return Ok(Err(self.failure(&log, Some(why))));
            }
            Images::Storing(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
            Images::Storing(_) => {
                let killed = std::os::unix::process::ExitStatusExt::signal(&status);
                let why = killed.map(|signal| {
                    format!("CRIU was killed by signal {signal}; the process runs on")
                });
                return Ok(Err(self.failure(&log, why)));
            }
        };
        Ok(Ok(Report {
            path: published.path,
            criu: cost,
            dumped,
            total: published.total,
            raw_bytes: published.raw_bytes,
            stored_bytes: published.stored_bytes,
            processes: self.tree.processes.len(),
        }))
    }

    fn request(&self, images: i32, work: i32) -> rpc::Dump {
        let options = self.options;
        rpc::Dump {
            common: rpc::Common {
                images,
                work,
                log: LOG.to_owned(),
                tcp_established: options.tcp_established,
                file_locks: options.file_locks,
                shell_job: options.shell_job,
                link_remap: options.link_remap,
            },
            pid: self.tree.own_pid(self.pid).as_raw(),
            leave_running: options.leave_running,
            ghost_limit: u32::try_from(options.ghost_limit).unwrap_or(u32::MAX),
            timeout: u32::try_from(options.timeout.as_secs()).unwrap_or(u32::MAX),
            external: self.tree.terminal.iter().cloned().collect(),
        }
    }

    /// Answers CRIU's questions until its end. Returns whether the dump succeeded, if
    /// CRIU said so.
    fn serve(
        &self,
        swrk: &Swrk,
        images: &mut Images,
        log: &Path,
        observer: &Arc<Observer>,
    ) -> Result<Option<bool>, Error> {
        let mut result = None;
        let mut stopped = false;
        let mut watch = Watch::new(self.pid);
        loop {
            let mut ready = vec![
                PollFd::new(swrk.messages(), PollFlags::POLLIN),
                PollFd::new(swrk.ended(), PollFlags::POLLIN),
            ];
            if !stopped {
                ready.push(PollFd::new(self.cancel.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut ready, PollTimeout::from(LOOK)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("wait for CRIU")(errno.into())),
            }
            let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any() == Some(true));
            let (ended, cancelled) = (is_ready(1), is_ready(2));
            if cancelled {
                stopped = true;
                swrk.stop_writing();
            }
            loop {
                match swrk.receive() {
                    Ok(Some(Answer::Notify { step })) => {
                        let success = self.answer(&step, images, observer);
                        // CRIU may have been killed; its end says so.
                        let _ = swrk.send(&Request::Notified { success });
                        watch.progressed();
                    }
                    Ok(Some(Answer::Done { success, .. })) => result = Some(success),
                    Ok(None) => return Ok(result),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(Error::system("read CRIU's answer")(error)),
                }
            }
            if ended {
                return Ok(result);
            }
            if result.is_none() && watch.has_stalled(log) {
                swrk.kill();
            }
        }
    }

    /// The answer to one of CRIU's questions: whether it goes on. After the dump of a
    /// process that is to end, that it may kill it.
    fn answer(&self, step: &str, images: &mut Images, observer: &Arc<Observer>) -> bool {
        if self.cancel.is_cancelled() {
            return false;
        }
        if step != POST_DUMP || self.options.leave_running {
            return true;
        }
        let placeholder = Images::Failed(Error::Cancelled);
        *images = match std::mem::replace(images, placeholder) {
            Images::Storing(storing) => match storing.publish(self, None, observer) {
                Ok(published) => Images::Published(published),
                Err(error) => Images::Failed(error),
            },
            other => other,
        };
        matches!(images, Images::Published(_))
    }

    fn failure(&self, log: &Path, why: Option<String>) -> Failure {
        let (dir, keep) = &self.options.logs;
        let note = archive(dir, *keep, &self.name(), "checkpoint", log);
        let found = diagnose(log).unwrap_or_default();
        let passes = why.is_none()
            && found
                .cause
                .as_ref()
                .is_some_and(cedana_checkpoint::criu::Cause::passes_by_itself);
        let why = why
            .or_else(|| found.sentence())
            .unwrap_or_else(|| "CRIU failed and its log has no error".to_owned());
        Failure {
            error: Error::Dump {
                pid: self.pid,
                why,
                log: note,
            },
            passes,
        }
    }
}

/// CRIU's progress after the process has ended.
struct Watch {
    root: Init,
    length: u64,
    at: Instant,
}

impl Watch {
    fn new(pid: Pid) -> Self {
        Self {
            root: Init::now(pid),
            length: 0,
            at: Instant::now(),
        }
    }

    fn progressed(&mut self) {
        self.at = Instant::now();
    }

    fn has_stalled(&mut self, log: &Path) -> bool {
        let length = log.metadata().map_or(0, |status| status.len());
        if length != self.length || !self.root.has_ended() {
            self.length = length;
            self.at = Instant::now();
        }
        self.at.elapsed() > DEAD_ROOT
    }
}
