//! `checkpoint`: the wrapped runtime's, prepared and judged.
//!
//! ```text
//! settings, container's state ─► look (CRIU? processes that can't be stopped?)
//!     ─► CRIU configuration + flags ─► runtime checkpoint, and beside it the follower
//!     ─► what is left is stored, synced and put into its place ([`storing`])
//!     ─► on failure: partial images removed, container thawed; then another attempt
//!        ([`trials`]), or the log is kept and explained
//! ```
//!
//! Whatever happens, the container goes on running unless its checkpoint is
//! whole and the caller asked for its end. If the caller did, CRIU waits with
//! that until we are done ([`crate::criu::post_dump`]); if not, the container runs on as
//! soon as CRIU is done, and we finish behind its back.

mod attempts;
mod compression;
mod proc_details;
mod storage;
pub(crate) mod unrestorable;
pub(crate) mod unseizable;

use std::env;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use cedana_checkpoint::capture::Expected;
use cedana_checkpoint::criu::DumpOptions;
use cedana_checkpoint::inspect::dump_cost;
use cedana_config::{Config, RESUMES_VARIABLE};
use nix::sys::stat::{Mode, umask};

use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::post_dump::PostDump;
use crate::criu::{self, ConfigFile, Log};
use crate::engine::checkpoint_dir;
use crate::engine::content_gc;
use crate::engine::docker;
use crate::host::cgroup::Cgroup;
use crate::host::child::{self, Keep, Next, Question, Signals};
use crate::host::procfs::{
    Init, descends, free_descriptors, memory, namespace_inode, netns_inode, stats_of,
};
use crate::lazy;
use crate::oci::nested_mounts;
use crate::oci::runtime::Runtime;
use crate::oci::state::{Container, Kind, Network};
use crate::output::progress::Progress;
use crate::output::report::Reporter;
use attempts::Trials;
use proc_details::complete;
use storage::{Criu, Facts, Storing};
use unrestorable::Doubt;
use unseizable::{Reason, Unseizable, Wait};

/// Takes a checkpoint.
pub(crate) fn run(request: &Request, reporter: &Reporter) -> Result<ExitCode, Error> {
    let signals = Signals::block().map_err(Error::Signals)?;
    let progress = Progress::new(request.progress_fd)?;
    let config = Config::load()?;
    let runtime = Runtime::find(&config.runtime)?;
    let container = Container::find(request, &runtime)?;
    let config = config.with_annotations(
        container
            .annotations
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )?;
    // Both at once: a client that pauses has paused already.
    let (criu, runtime_version) = thread::scope(|scope| {
        let version = scope.spawn(|| runtime.version());
        // Of a thread that panicked nothing is known.
        (criu::check(request), version.join().unwrap_or_default())
    });
    let criu = criu?;
    if !request.has("leave-running")
        && let Some(version) = docker::cannot_restore(request)
    {
        return Err(Error::NoWayBack {
            id: request.id.clone(),
            version,
        });
    }

    lazy::finish(container.init, &signals).map_err(|source| Error::Incomplete {
        id: request.id.clone(),
        source,
    })?;

    if let Err(error) = content_gc::wait(request, &container, &signals) {
        if error.kind() == io::ErrorKind::Interrupted {
            return Err(Error::Interrupted {
                id: request.id.clone(),
            });
        }
        reporter.warning(&format!(
            "containerd may refuse to store the checkpoint of container {}: what it keeps of the one before can't be watched: {error}",
            request.id
        ));
    }

    let cgroup = container.cgroup.as_deref().and_then(Cgroup::open);
    let processes = cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
    refuse_full_tables(request, container.init, &processes)?;
    warn_of_foreign(request, &container, &processes, reporter);
    unrestorable::before_dump(request, &container, &config, &processes, reporter)
        .map_err(|doubt| refused(request, doubt))?;
    // A checkpoint holds every secret of the application: its files are for root
    // alone, and so is the directory, which runc would make without the right to
    // enter it.
    umask(Mode::from_bits_truncate(0o077));
    let facts = Facts {
        criu,
        runtime: &runtime_version,
        container: &container,
        config: &config,
    };
    let dump = Attempt {
        request,
        reporter,
        signals: &signals,
        progress: &progress,
        runtime: &runtime,
        facts,
        cgroup: cgroup.as_ref(),
    };
    let timeout = config.checkpoint.timeout;
    let mut trials = Trials::new(&signals, &container, cgroup.as_ref(), timeout);
    loop {
        dump.wait_for_obstacles(&mut trials)?;
        if let Some(code) = dump.run(&mut trials)? {
            progress.done();
            return Ok(code);
        }
        if !trials.let_run(reporter) {
            return Err(Error::Interrupted {
                id: request.id.clone(),
            });
        }
    }
}

/// What every attempt at a checkpoint needs.
struct Attempt<'a> {
    request: &'a Request,
    reporter: &'a Reporter,
    signals: &'a Signals,
    progress: &'a Progress,
    runtime: &'a Runtime,
    facts: Facts<'a>,
    cgroup: Option<&'a Cgroup>,
}

impl Attempt<'_> {
    /// Returns when CRIU can stop every process.
    fn wait_for_obstacles(&self, trials: &mut Trials<'_>) -> Result<(), Error> {
        let Self {
            request, reporter, ..
        } = self;
        let Some(cgroup) = self.cgroup else {
            return Ok(());
        };
        let init = self.facts.container.init;
        let look = || obstacles(init, cgroup);
        let first = look().into_iter().next();
        let Some(found) = first else { return Ok(()) };
        if !trials.may_run() {
            return Err(Error::Obstacle {
                id: request.id.clone(),
                found,
                waited: Duration::ZERO,
            });
        }
        if found.reason == Reason::Vfork {
            trials.saw_vforks();
        }
        let waits = |found: &Unseizable| {
            reporter.note(&format!("container {}: waiting: {found}", request.id));
        };
        let end = trials.while_it_runs(reporter, || unseizable::wait(self.signals, look, waits));
        match end {
            Wait::Clear => Ok(()),
            Wait::Stays(found, waited) => Err(Error::Obstacle {
                id: request.id.clone(),
                found,
                waited,
            }),
            Wait::Interrupted => Err(Error::Interrupted {
                id: request.id.clone(),
            }),
        }
    }

    /// Takes the checkpoint. Nothing if that failed in a way that another attempt
    /// may not.
    fn run(&self, trials: &mut Trials<'_>) -> Result<Option<ExitCode>, Error> {
        let Self {
            request,
            reporter,
            runtime,
            facts,
            ..
        } = self;
        let (container, config) = (facts.container, facts.config);
        let init = Init::now(container.init);
        let processes = self.cgroup.map(Cgroup::processes).unwrap_or_default();
        let kind = Dump::of(request);
        let gate = match kind.ends {
            true => PostDump::new(facts.criu).map_err(Error::CriuConfig)?,
            false => None,
        };
        let options = DumpOptions {
            external_netns: own_netns(container),
            external_mounts: container
                .config
                .as_deref()
                .map(|config| nested_mounts::external_keys(config, container.init))
                .unwrap_or_default(),
            ghost_limit: config.checkpoint.ghost_limit,
            link_remap: config.checkpoint.link_remap,
            timeout: trials.freeze_timeout(),
            action_script: gate.as_ref().map(|_| PostDump::script()),
        };
        let options =
            ConfigFile::new(|inherited| options.render(inherited)).map_err(Error::CriuConfig)?;
        let storing = Storing::begin(
            request,
            config,
            &kind,
            // An end that can't be held up would come before the rest is stored.
            kind.whole && (gate.is_some() || !kind.ends),
            trials.was_frozen() && !kind.ends && env::var_os(RESUMES_VARIABLE).is_none(),
            self.cgroup
                .filter(|_| config.checkpoint.spare_memory)
                .map(|_| expected(&processes)),
            self.progress.observer(),
        )?;
        let paths = storing.paths(request);
        let mut log = Log::before(paths.work.join("dump.log"));
        let stats = Log::before(paths.work.join("stats-dump"));
        let args = request.with_values(&flags(config, container, facts.runtime), &paths.flags());
        let mut command = runtime.command(&args);
        let (name, value) = options.variable();
        command.env(name, value);
        if let Some(gate) = &gate {
            let (name, value) = gate.variable();
            command.env(name, value);
        }
        let mut storing = Some(storing);
        let mut stored = None;
        let mut answer = |asked: bool| {
            if asked
                && let Err(doubt) =
                    unrestorable::after_dump(request, container, config, paths.images(), reporter)
            {
                // The container goes on, and its images are removed below.
                if let Some(gate) = &gate {
                    gate.answer(false);
                }
                stored = Some(Err(refused(request, doubt)));
            } else if let Some(storing) = storing.take_if(|_| asked) {
                let result = storing.finish(facts, Criu::Waits, reporter);
                // On disk or nowhere, and the log with it.
                log.moved(request.image_path());
                if let Some(gate) = &gate {
                    gate.answer(result.is_ok());
                }
                stored = Some(result);
            } else if let Some(gate) = &gate {
                gate.answer(false);
            }
            Next::Done
        };
        let question = gate.as_ref().map(|gate| Question {
            asked: gate.question(),
            answer: &mut answer,
        });
        let outcome =
            child::run_and_answer(self.signals, command, Keep::StderrAndOrphans, question)
                .map_err(|source| Error::Spawn {
                    program: runtime.program.clone(),
                    source,
                })?;
        // CRIU's word counts: a runtime that was killed after it, or that fails over
        // something else, must not cost the checkpoint of a container that may have
        // ended for it.
        let dumped = outcome.status.success() || log.contains("Dumping finished successfully");
        if dumped && !matches!(stored, Some(Err(_))) {
            let unseen = storing.is_some() && !request.has("pre-dump");
            if let Some(storing) = storing.take() {
                let cost = stats
                    .is_new()
                    .then(|| dump_cost(&paths.work).ok())
                    .flatten();
                storing.finish(facts, Criu::Ended(cost.flatten()), reporter)?;
            }
            if unseen {
                unrestorable::warn_after_dump(request, container, &request.image_path(), reporter);
            }
            eprint!("{}", outcome.stderr);
            if !outcome.status.success() {
                reporter.warning(&format!(
                    "the checkpoint of container {} in {} is complete although the runtime failed ({})",
                    request.id,
                    request.image_path().display(),
                    outcome.status
                ));
            }
            if let Err(error) = checkpoint_dir::add_whiteout(&request.image_path()) {
                reporter.warning(&format!(
                    "Docker may refuse to restore the checkpoint in {}: {error}",
                    request.image_path().display()
                ));
            }
            return Ok(Some(ExitCode::SUCCESS));
        }

        // First of all: what follows takes time.
        let frozen = self.cgroup.filter(|_| !trials.was_frozen());
        if let Some(cgroup) = frozen.filter(|cgroup| cgroup.is_frozen())
            && let Err(error) = cgroup.thaw()
        {
            reporter.warning(&format!(
                "container {} is still frozen and cannot be thawed: {error}",
                request.id
            ));
        }
        let cause = log.cause();
        let failure = match stored {
            Some(Err(error)) => Some(error),
            _ if kind.repeatable && trials.again(cause.as_ref(), &outcome) => {
                if let Some(cause) = cause {
                    reporter.note(&format!("container {}: trying again: {cause}", request.id));
                }
                None
            }
            _ => {
                let mut failure = log.failure_with(request, config, &outcome, |found| {
                    complete(found, init, &processes);
                });
                failure.why = format!("{}{}", failure.why, trials.account()).into();
                Some(Error::failed(request, failure))
            }
        };
        if let Some(Err(error)) = storing.map(Storing::abandon) {
            reporter.warning(&format!(
                "cannot remove the incomplete checkpoint in {}: {error}",
                request.image_path().display()
            ));
        }
        failure.map_or(Ok(None), Err)
    }
}

fn refused(request: &Request, doubt: Doubt) -> Error {
    Error::Doubtful {
        id: request.id.clone(),
        doubt,
    }
}

/// What kind of dump is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dump {
    /// All of the container's memory comes into the image directory, so that it
    /// is a checkpoint by itself.
    pub(super) whole: bool,
    /// The images are used while CRIU is still running.
    pub(super) lazy: bool,
    /// The container ends with it.
    pub(super) ends: bool,
    /// It can be begun again: nothing of it is in the hands of another program.
    pub(super) repeatable: bool,
}

impl Dump {
    fn of(request: &Request) -> Self {
        let lazy = request.has("lazy-pages");
        let pre_dump = request.has("pre-dump");
        Self {
            whole: !lazy && !pre_dump && request.value("page-server").is_none(),
            lazy,
            ends: !pre_dump && !lazy && !request.has("leave-running"),
            repeatable: !lazy && request.value("page-server").is_none(),
        }
    }
}

/// So many bytes are expected. For tests, whose containers are small.
const EXPECTED: &str = "CEDANA_TEST_EXPECTED";

/// What CRIU is going to write.
fn expected(processes: &[i32]) -> Expected {
    let told = env::var(EXPECTED).ok().and_then(|text| text.parse().ok());
    let sum = || processes.iter().filter_map(|pid| memory(*pid)).sum();
    Expected {
        bytes: told.unwrap_or_else(sum),
        processes: processes.len(),
    }
}

/// The network namespace to leave out of the dump: one that is the container's
/// own. For one with a path the runtime says so itself, and the host's is in no
/// dump.
fn own_netns(container: &Container) -> Option<u64> {
    if container.network != Network::Own || in_own_user_namespace(container) {
        return None;
    }
    let theirs = netns_inode(&container.init.to_string()).ok()?;
    let ours = netns_inode("self").ok()?;
    (theirs != ours).then_some(theirs)
}

/// Whether the container is in a user namespace of its own. A network namespace
/// that the runtime made for it then belongs to that, and CRIU can only make it
/// anew: from within the new user namespace no other one can be entered
/// (setns(2), EPERM).
fn in_own_user_namespace(container: &Container) -> bool {
    let users = |pid: &str| namespace_inode(pid, "user").ok();
    users(&container.init.to_string()) != users("self")
}

/// Options that the runtime always sends to CRIU and that a configuration file
/// therefore can't set. They stand before the caller's own flags, which win.
fn flags(config: &Config, container: &Container, version: &str) -> Vec<&'static str> {
    let settings = &config.checkpoint;
    [
        (settings.tcp_established, "--tcp-established"),
        (settings.file_locks, "--file-locks"),
        (settings.ext_unix_sk, "--ext-unix-sk"),
        (
            settings.link_remap && container.kind == Kind::Runc && takes_link_remap(version),
            "--link-remap",
        ),
    ]
    .into_iter()
    .filter_map(|(wanted, flag)| wanted.then_some(flag))
    .collect()
}

/// runc has the flag since 1.3 and sends the option ever since; earlier ones
/// leave it to the configuration file.
fn takes_link_remap(version: &str) -> bool {
    runc_version(version).is_some_and(|version| version >= (1, 3))
}

/// The version in `runc --version`, whose first line is "runc version 1.3.6".
fn runc_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.lines().next()?.rsplit(' ').next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The processes that CRIU could not stop.
fn obstacles(init: i32, cgroup: &Cgroup) -> Vec<Unseizable> {
    let stats = stats_of(&cgroup.processes());
    stats
        .iter()
        .filter_map(|(&pid, stat)| {
            let ours = descends(pid, init, &stats);
            unseizable::check(pid, stat, cgroup.version(), ours)
        })
        .collect()
}

/// Refuses a process that has not the two free descriptors that CRIU's code in it
/// opens: with one left, CRIU 4.2 can't open the second, and the process ends.
fn refuse_full_tables(request: &Request, init: i32, processes: &[i32]) -> Result<(), Error> {
    let stats = stats_of(processes);
    let full = stats.iter().find(|&(&pid, _)| {
        descends(pid, init, &stats) && free_descriptors(pid, 2).is_some_and(|free| free < 2)
    });
    match full {
        Some((&pid, stat)) => Err(Error::NoDescriptor {
            id: request.id.clone(),
            pid,
            name: stat.name.clone(),
        }),
        None => Ok(()),
    }
}

/// Warns of processes that CRIU leaves out.
fn warn_of_foreign(
    request: &Request,
    container: &Container,
    processes: &[i32],
    reporter: &Reporter,
) {
    let stats = stats_of(processes);
    let mut foreign: Vec<_> = stats
        .iter()
        .filter(|&(&pid, _)| !descends(pid, container.init, &stats))
        .map(|(&pid, stat)| (pid, stat.name.as_str()))
        .collect();
    if foreign.is_empty() || !stats.contains_key(&container.init) {
        return;
    }
    foreign.sort_unstable();
    let list: Vec<String> = foreign
        .iter()
        .map(|(pid, name)| format!("{pid} ({name})"))
        .collect();
    reporter.warning(&format!(
        "container {}: {} not started by its init (exec sessions) and not part of the checkpoint: {}",
        request.id,
        if list.len() == 1 { "a process was" } else { "processes were" },
        list.join(", ")
    ));
}

#[cfg(test)]
mod tests;
