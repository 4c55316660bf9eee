//! One attempt at a restore: the page source, the runtime, and CRIU below it.

use std::cell::Cell;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use cedana_checkpoint::criu::{Cause, RestoreOptions};
use cedana_checkpoint::session::{Session, Settings};

use super::Context;
use super::invocation::Invocation;
use super::prepared::{Prepared, console_socket};
use super::restored::remove;
use crate::commands::error::Error;
use crate::criu::action_script;
use crate::criu::post_resume::PostResume;
use crate::criu::{self, ConfigFile, Log};
use crate::host::child::{self, Keep, Next, Outcome, Question, Stall};
use crate::host::{process_tree, sys, test_hooks};
use crate::network::tcp::Connections;
use crate::oci::console::Console;
use crate::oci::state::Container;
use cedana_contract::pid::Pid;

/// An attempt that can be started.
pub(super) struct Running {
    command: Command,
    log: Log,
    /// CRIU's configuration.
    _options: Option<ConfigFile>,
    session: Option<Session>,
    console: Option<Console>,
    /// CRIU's message that the container runs, in the foreground.
    resumed: Option<PostResume>,
}

/// An attempt that has ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) session: Option<Session>,
    log: Log,
}

impl Running {
    /// Starts the page source, if the restore is lazy, and prepares the runtime's
    /// command.
    pub(super) fn start(prepared: &mut Prepared<'_>) -> Result<Self, Error> {
        let context = prepared.context;
        let session = page_source(prepared)?;
        // A lazy attempt may be followed by an eager one, and one that tries to
        // keep connections by one that closes them.
        let may_be_repeated = session.is_some() || prepared.connections == Connections::Try;
        let console = match console_socket(context).filter(|_| may_be_repeated) {
            Some(_) => Some(Console::listen(prepared.work.path()).map_err(Error::Console)?),
            None => None,
        };
        let resumed = match context.is_detached() {
            true => None,
            false => PostResume::new(prepared.criu).map_err(Error::CriuConfig)?,
        };
        let view = prepared.view().and_then(|view| view.path());
        let console_path = console.as_ref().map(Console::path);
        let invocation = Invocation {
            request: context.request,
            runtime: &context.runtime,
            work: &prepared.work,
            images: view.as_deref(),
            console: console_path.as_deref(),
            lazy: session.is_some(),
            options: RestoreOptions {
                tcp_close: prepared.connections == Connections::Close,
                external_mounts: prepared.mounts.clone(),
                action_script: resumed.as_ref().map(|_| action_script::program()),
            },
        };
        let (mut command, options) = invocation.command()?;
        if let Some(resumed) = &resumed {
            let (name, value) = resumed.variable();
            command.env(name, value);
        }
        if prepared.bundle.would_unmount_host_mounts() {
            sys::unshare_mounts(&mut command);
        }
        Ok(Self {
            command,
            log: Log::before(prepared.work.path().join("restore.log")),
            _options: options,
            session,
            console,
            resumed,
        })
    }

    /// Runs the runtime to its end. In the foreground that is the container's end,
    /// and what `prepared` holds is given up when the container runs.
    pub(super) fn wait(self, prepared: &mut Prepared<'_>) -> Result<Ended, Error> {
        let context = prepared.context;
        let mut session = self.session;
        let messages: Option<OwnedFd> = session
            .as_ref()
            .and_then(|session| session.descriptor().ok());
        let mut take_messages = |asked: bool| match &mut session {
            Some(session) if asked => match session.hear(|| context.served()) {
                true => Next::Again,
                false => Next::Done,
            },
            _ => Next::Done,
        };
        let limit = prepared.config.restore.timeout;
        let released = Cell::new(false);
        let mut release = |asked: bool| {
            if asked {
                if let Ok(container) = Container::find(context.request, &context.runtime) {
                    prepared.after.set(context, &container);
                }
                prepared.release();
                released.set(true);
            }
            Next::Done
        };
        let mut growth = self.log.growth();
        let mut moved = 0;
        // In the foreground the runtime then waits for the container's end. Between
        // two lines of the log CRIU may read memory for minutes.
        let mut progressed = || {
            let moved_before = mem::replace(&mut moved, process_tree::bytes_moved(Pid::own()));
            released.get()
                || growth.has_grown()
                || moved != moved_before
                || (!context.is_detached() && growth.says_success())
        };
        let mut questions = Vec::new();
        if let Some(messages) = &messages {
            questions.push(Question {
                asked: messages.as_fd(),
                answer: &mut take_messages,
            });
        }
        if let Some(resumed) = &self.resumed {
            questions.push(Question {
                asked: resumed.reached(),
                answer: &mut release,
            });
        }
        let stall = limit.map(|limit| Stall {
            limit,
            progressed: &mut progressed,
        });
        let outcome = child::run_and_answer(
            &context.signals,
            self.command,
            Keep::Stdio,
            questions,
            stall,
        )
        .map_err(|source| Error::Spawn {
            program: context.runtime.program.clone(),
            source,
        })?;
        if outcome.status.success()
            && let (Some(console), Some(caller)) = (self.console, console_socket(context))
            && let Err(error) = console.pass_on(caller)
        {
            remove(context);
            return Err(Error::Console(error));
        }
        Ok(Ended {
            outcome,
            session,
            log: self.log,
        })
    }
}

/// Starts a page source for a lazy restore. If none can be started the restore
/// becomes an eager one.
fn page_source(prepared: &mut Prepared<'_>) -> Result<Option<Session>, Error> {
    let context = prepared.context;
    let Some(view) = prepared.view().filter(|view| view.is_lazy()) else {
        return Ok(None);
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let settings = Settings {
        id: &context.request.id,
        opened: view.opened().as_fd(),
        images: &context.request.images,
        store: &prepared.config.store.path,
        fingerprint: view.fingerprint().unwrap_or_default(),
        report: Some(&context.request.bundle),
        threads: prepared.config.restore.prefetch_cores.of(cores),
        oom_score_adj: prepared.bundle.oom_score_adj(),
        begun: context.begun,
        log: context.reporter.log(),
        gate: test_hooks::prefetch_gate().map(PathBuf::from),
    };
    match Session::start(&settings, prepared.work.path()) {
        Ok(session) => Ok(Some(session)),
        Err(error) => {
            prepared.remark_eager(&format!("no page source can be started: {error}"));
            prepared.see_all_memory()?;
            Ok(None)
        }
    }
}

impl Ended {
    /// Whether the container runs, or has run. In the foreground the runtime's exit
    /// code is the container's, so CRIU's log decides.
    pub(super) fn container_ran(&self, context: &Context<'_>) -> bool {
        self.outcome.status.success() || (!context.is_detached() && self.criu_succeeded())
    }

    fn criu_succeeded(&self) -> bool {
        self.log.says_success()
    }

    /// Whether CRIU found that the network lacks an address of a connection.
    pub(super) fn misses_an_address(&self) -> bool {
        self.log.cause() == Some(Cause::AddressNotAvailable)
    }

    /// Whether an eager attempt may succeed where this one failed. A hook that
    /// failed has nothing to do with memory, and without its bundle the container is
    /// no longer wanted.
    pub(super) fn may_succeed_eagerly(&self, prepared: &Prepared<'_>) -> bool {
        self.session.is_some()
            && !criu::hook_failed(prepared.context.request)
            && prepared.bundle.exists()
    }

    /// Whether another attempt is out of the question: the caller ended this one, or
    /// the container may have run.
    pub(super) fn is_final(&mut self) -> bool {
        self.outcome.signalled
            || self.outcome.stalled
            || self.criu_succeeded()
            || self.session.as_mut().is_some_and(Session::may_run)
    }

    /// Ends the page source of an attempt that failed.
    pub(super) fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.end();
        }
    }

    /// Cleans up after a runtime that was killed, as the runtime does after a restore
    /// that fails.
    pub(super) fn clean_up_if_stalled(&mut self, context: &Context<'_>) {
        if self.outcome.stalled {
            self.end_session();
            remove(context);
        }
    }

    /// Why the restore failed: no progress; a damaged file, of which CRIU saw an I/O error; else
    /// CRIU's own reason; else that of the page source, of which CRIU saw the end
    /// of a connection.
    pub(super) fn failure(&mut self, prepared: &Prepared<'_>) -> Error {
        let request = prepared.context.request;
        let mut failure = self.log.failure(request, &prepared.config, &self.outcome);
        let damage = prepared.view().and_then(|view| view.damage());
        let stalled = prepared
            .config
            .restore
            .timeout
            .filter(|_| self.outcome.stalled);
        let reason = match damage {
            Some(damage) => Some(damage.to_string()),
            None if stalled.is_some() => stalled.map(no_progress),
            None if self.log.has_own_reason() => None,
            None => self.session.as_mut().and_then(Session::last_word),
        };
        if let Some(reason) = reason {
            failure.why = reason.into();
        }
        Error::failed(request, failure)
    }
}

/// Why a restore was given up.
fn no_progress(limit: Duration) -> String {
    format!(
        "CRIU and the runtime made no progress for {limit:?} and were killed; if they only wait for a slow disk, raise restore.timeout in config.toml"
    )
}
