//! One attempt at a checkpoint: the runtime, CRIU below it, and the capture of what
//! CRIU writes.

use std::cell::Cell;
use std::env;
use std::mem;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cedana_checkpoint::progress::Observer;
use cedana_contract::variables;

use super::attempts::Attempts;
use super::captured::{Captured, Ended, Failed, Written};
use super::prepared::Prepared;
use super::storage::{Criu, Images, Paths, Storage};
use super::{dump_options, unrestorable};
use crate::commands::error::Error;
use crate::criu::post_dump::PostDump;
use crate::criu::{ConfigFile, Log};
use crate::host::child::{self, Keep, Next, Question, Stall};
use crate::host::procfs::Init;
use cedana_contract::pid::Pid;

/// The file that CRIU writes when all tasks are dumped (criu/cr-dump.c,
/// `cr_dump_tasks`).
const INVENTORY: &str = "inventory.img";

/// How long CRIU may make no progress after the container's init was killed.
///
/// CRIU 4.2 hangs for ever if a process with threads is killed while CRIU's parasite code
/// is in one of them: CRIU waits for that thread, and the killed process is a zombie
/// whose threads wait for CRIU, which traces them. A CRIU that sees the end of the
/// process fails at once.
const DEAD_INIT: Duration = Duration::from_secs(5);

/// An attempt that can be started.
pub(super) struct Running<'a> {
    prepared: &'a Prepared<'a>,
    /// Init when the attempt began, and the processes of the container.
    init: Init,
    processes: Vec<Pid>,
    images: Images<'a>,
    paths: Paths,
    log: Log,
    stats: Log,
    command: Command,
    /// CRIU's configuration, which CRIU reads through this process's entry in /proc.
    _options: ConfigFile,
    /// Where CRIU waits before it ends the container.
    hook: Option<PostDump>,
}

impl<'a> Running<'a> {
    /// Prepares a place for the images and starts the capture.
    pub(super) fn start(
        prepared: &'a Prepared<'a>,
        attempts: &Attempts<'_>,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let Prepared {
            request,
            kind,
            config,
            ..
        } = prepared;
        let init = Init::now(prepared.container.init);
        let processes = prepared.processes();
        let hook = match kind.ends {
            true => PostDump::new(prepared.criu).map_err(Error::CriuConfig)?,
            false => None,
        };
        if kind.ends && hook.is_none() && request.archive_name().is_some() {
            return Err(Error::NoArchive {
                id: request.id.clone(),
            });
        }
        let options = dump_options::criu_options(prepared, attempts, hook.is_some());
        let options =
            ConfigFile::new(|inherited| options.render(inherited)).map_err(Error::CriuConfig)?;
        let storing = Storage::begin(
            prepared,
            // Without the hook CRIU would end the container before the rest is
            // stored.
            kind.whole && (hook.is_some() || !kind.ends),
            attempts.was_frozen() && !kind.ends && env::var_os(variables::SHIM_RESUMES).is_none(),
            prepared
                .cgroup
                .as_ref()
                .filter(|_| config.checkpoint.spare_memory)
                .map(|_| dump_options::expected(&processes)),
            observer,
        )?;
        let paths = storing.paths(request);
        let flags = dump_options::runtime_flags(prepared);
        let mut command = prepared
            .runtime
            .command(&request.with_values(&flags, &paths.flags()));
        let (name, value) = options.variable();
        command.env(name, value);
        if let Some(hook) = &hook {
            let (name, value) = hook.variable();
            command.env(name, value);
        }
        Ok(Self {
            prepared,
            init,
            processes,
            log: Log::before(paths.work.join("dump.log")),
            stats: Log::before(paths.work.join("stats-dump")),
            images: Images::Captured(storing),
            paths,
            command,
            _options: options,
            hook,
        })
    }

    /// Runs the runtime to its end. While CRIU waits in its post-dump script, the
    /// images are published.
    pub(super) fn wait(self) -> Result<Ended<'a>, Error> {
        let Self {
            prepared,
            mut images,
            mut log,
            paths,
            hook,
            ..
        } = self;
        let mut growth = log.growth();
        let answered = Cell::new(false);
        let mut answer = |asked: bool| {
            answered.set(true);
            if asked && matches!(images, Images::Captured(_)) {
                let taken = Images::Refused(prepared.cancelled(), None);
                if let Images::Captured(storing) = mem::replace(&mut images, taken) {
                    images = publish(prepared, storing, paths.images());
                }
                // On disk or removed, and the log with it.
                log.moved(&prepared.request.images);
            }
            if let Some(hook) = &hook {
                hook.answer(matches!(images, Images::Published(_)));
            }
            Next::Done
        };
        let questions = hook.as_ref().map(|hook| Question {
            asked: hook.question(),
            answer: &mut answer,
        });
        // CRIU kills init itself after the answer, or after its last line.
        let mut progressed = || {
            !self.init.has_ended() || growth.has_grown() || answered.get() || growth.says_success()
        };
        let outcome = child::run_and_answer(
            prepared.signals,
            self.command,
            Keep::StderrAndOrphans,
            questions.into_iter().collect(),
            Some(Stall {
                limit: DEAD_INIT,
                progressed: &mut progressed,
            }),
        )
        .map_err(|source| Error::Spawn {
            program: prepared.runtime.program.clone(),
            source,
        })?;
        let dumped = outcome.status.success() || finished_alone(&images, &log, &paths, &hook);
        Ok(match images {
            Images::Captured(storing) if dumped => Ended::Captured(Captured {
                prepared,
                outcome,
                images: Written::Unpublished(Box::new(storing)),
                stats: self.stats,
                work: paths.work,
            }),
            Images::Published(stored) if dumped => Ended::Captured(Captured {
                prepared,
                outcome,
                images: Written::Published(stored),
                stats: self.stats,
                work: paths.work,
            }),
            images => Ended::Failed(Failed {
                prepared,
                outcome,
                images,
                log,
                init: self.init,
                processes: self.processes,
            }),
        })
    }
}

/// Whether CRIU has finished although the runtime failed: a runtime that was killed after
/// the dump, or that fails over something else, must not cost the checkpoint of a
/// container that may have ended for it.
///
/// CRIU's log says so, but a file's name in it can say so, too. The second sign is CRIU's
/// post-dump script, for which the images were published. Without that script it is
/// the file that CRIU writes when all tasks are dumped.
fn finished_alone(images: &Images<'_>, log: &Log, paths: &Paths, hook: &Option<PostDump>) -> bool {
    let has_another_sign = match images {
        Images::Published(_) => true,
        Images::Captured(_) => hook.is_none() && paths.images().join(INVENTORY).exists(),
        Images::Refused(..) => false,
    };
    has_another_sign && log.says_success()
}

/// Publishes captured images unless they could never be restored.
fn publish<'a>(prepared: &'a Prepared<'a>, storing: Storage<'a>, images: &Path) -> Images<'a> {
    if let Err(doubt) = unrestorable::after_dump(prepared, images) {
        return Images::Refused(prepared.refused(doubt), Some(storing));
    }
    match storing.finish(Criu::Waits) {
        Ok(stored) => Images::Published(stored),
        Err(error) => Images::Refused(error, None),
    }
}
