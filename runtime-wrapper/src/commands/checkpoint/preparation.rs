//! What precedes the first attempt at a checkpoint, and each further one.

use std::cell::Cell;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use cedana_checkpoint::session;
use cedana_config::Config;
use nix::sys::stat::{Mode, umask};

use super::attempts::Attempts;
use super::prepared::{Dump, Prepared};
use super::unseizable::{self, Reason, Unseizable, Wait};
use super::{prechecks, unrestorable};
use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::{self, config_annotation};
use crate::engine::{content_gc, docker};
use crate::host::cgroup::Cgroup;
use crate::host::child::Signals;
use crate::host::procfs::stats_of;
use crate::oci::runtime::Runtime;
use crate::oci::spec;
use crate::oci::state::Container;
use crate::output::report::Reporter;

impl<'a> Prepared<'a> {
    /// Reads settings and container, waits until the container can be dumped, and
    /// refuses a checkpoint that could never be restored.
    pub(super) fn prepare(
        request: &'a Request,
        reporter: &'a Reporter,
        signals: &'a Signals,
    ) -> Result<Self, Error> {
        let mut prepared = Self::read(request, reporter, signals)?;
        prepared.refuse_what_docker_cannot_start()?;
        prepared.wait_for_memory()?;
        prepared.paused = prepared.wait_for_containerd()?;
        let stats = stats_of(&prepared.processes());
        prechecks::refuse_full_tables(request, prepared.container.init, &stats)?;
        prechecks::warn_of_foreign(request, prepared.container.init, &stats, reporter);
        unrestorable::before_dump(&prepared, &stats).map_err(|doubt| prepared.refused(doubt))?;
        // A checkpoint holds the application's secrets: its files and its directory
        // are for root alone.
        umask(Mode::from_bits_truncate(0o077));
        Ok(prepared)
    }

    /// Reads settings and container.
    pub(super) fn read(
        request: &'a Request,
        reporter: &'a Reporter,
        signals: &'a Signals,
    ) -> Result<Self, Error> {
        let config = Config::load()?;
        let runtime = Runtime::find(&config.runtime)?;
        let container = Container::find(request, &runtime)?;
        let config = config.with_annotations(
            container
                .annotations
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            |exceeded| reporter.warning(exceeded),
        )?;
        let allowed = config.criu.config_annotation;
        config_annotation::check(&container.annotations, allowed)
            .map_err(|source| Error::config_annotation(request, source))?;
        // Both at once: a client that pauses has paused already.
        let (criu, runtime_version) = thread::scope(|scope| {
            let version = scope.spawn(|| runtime.version());
            (criu::check(request), version.join().unwrap_or_default())
        });
        Ok(Self {
            request,
            reporter,
            signals,
            paused: Duration::ZERO,
            kind: Dump::of(request),
            runtime,
            runtime_version,
            criu: criu?,
            spec: container.config.as_deref().and_then(spec::read_bounded),
            cgroup: container.cgroup.as_deref().and_then(Cgroup::open),
            container,
            config,
            without_store: Cell::new(false),
        })
    }

    fn refuse_what_docker_cannot_start(&self) -> Result<(), Error> {
        if self.request.has("leave-running") {
            return Ok(());
        }
        match docker::cannot_restore(self.request) {
            Some(version) => Err(Error::NoWayBack {
                id: self.request.id.clone(),
                version,
            }),
            None => Ok(()),
        }
    }

    /// Waits until a lazy restore has brought all of the container's memory.
    fn wait_for_memory(&self) -> Result<(), Error> {
        session::finish(self.container.init, self.signals).map_err(|source| Error::Incomplete {
            id: self.request.id.clone(),
            source,
        })
    }

    /// Waits until containerd has removed what it kept of an earlier checkpoint.
    /// Returns how long the container was paused for that.
    fn wait_for_containerd(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        let is_paused = self.cgroup.as_ref().is_some_and(Cgroup::is_frozen);
        match content_gc::wait(self.request, &self.container, self.signals) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(self.interrupted()),
            Err(error) => {
                self.reporter.warning(&format!(
                    "containerd may refuse to store the checkpoint of container {}: what it keeps of the one before can't be watched: {error}",
                    self.request.id
                ));
                Ok(Duration::ZERO)
            }
            Ok(()) if is_paused => Ok(begun.elapsed()),
            Ok(()) => Ok(Duration::ZERO),
        }
    }

    /// Returns when CRIU can stop every process.
    pub(super) fn wait_for_obstacles(&self, attempts: &mut Attempts<'_>) -> Result<(), Error> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(());
        };
        let look = || prechecks::obstacles(self.container.init, cgroup);
        let Some(found) = look().into_iter().next() else {
            return Ok(());
        };
        let refused = |found, waited| Error::Obstacle {
            id: self.request.id.clone(),
            found,
            waited,
        };
        if !attempts.may_run() {
            return Err(refused(found, Duration::ZERO));
        }
        if found.reason == Reason::Vfork {
            attempts.saw_vforks();
        }
        let waits = |found: &Unseizable| {
            self.reporter
                .note(&format!("container {}: waiting: {found}", self.request.id));
        };
        let wait = || unseizable::wait(self.signals, look, waits);
        match attempts.while_it_runs(self.reporter, wait) {
            Wait::Clear => Ok(()),
            Wait::Stays(found, waited) => Err(refused(found, waited)),
            Wait::Interrupted => Err(self.interrupted()),
        }
    }
}
