//! Jobs of what runs already: a process or a container that the daemon has not started.
//!
//! Such a job has no supervisor, so it has no output here, and nobody knows its exit status.
//! The daemon watches its first process by a descriptor, and notes when that ends. A later
//! daemon knows the process by its start: its ID may mean another one.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cedana_api::time::now_micros;
use cedana_contract::pid::Pid;
use cedana_contract::pidfd;
use tokio::sync::oneshot;

use super::{JobError, Jobs, Wanted, detached, names};
use crate::caller::Caller;
use crate::checkpoints::{DumpOptions, Dumped, Failure, Kind, Tell, containerd, process, runc};
use crate::job::bytes::Bytes;
use crate::job::id::JobId;
use crate::job::quote;
use crate::job::spec::RestartPolicy;
use crate::store::{Checkpoints, Container, JobKey, JobKind, JobRow, JobState, StoreError};
use crate::supervisor::Stat;
use crate::sys;
use crate::worker::Owner;

/// The longest command line that is kept, in words.
const MAX_WORDS: usize = 64;

/// What is to be managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Managed {
    Process(i32),
    Runc(runc::Container),
    Containerd(containerd::Container),
}

impl Managed {
    async fn pid(&self) -> Result<i32, Failure> {
        match self {
            Self::Process(pid) => Ok(*pid),
            Self::Runc(container) => runc::pid(container).await,
            Self::Containerd(container) => containerd::pid(container).await,
        }
    }

    fn container(&self) -> Option<Container> {
        match self {
            Self::Process(_) => None,
            Self::Runc(container) => Some(Container::Runc {
                id: container.id.clone(),
                root: container.root.as_deref().map(Bytes::of_path),
            }),
            Self::Containerd(container) => Some(Container::Containerd {
                id: container.id.clone(),
                namespace: container.namespace.clone(),
                address: Bytes::of_path(&container.address),
            }),
        }
    }

    fn of(job: &JobRow, pid: i32) -> Self {
        match &job.kind.container {
            None => Self::Process(pid),
            Some(Container::Runc { id, root }) => Self::Runc(runc::Container {
                id: id.clone(),
                root: root.as_ref().map(|root| root.as_path().to_owned()),
            }),
            Some(Container::Containerd {
                id,
                namespace,
                address,
            }) => Self::Containerd(containerd::Container {
                id: id.clone(),
                namespace: namespace.clone(),
                address: address.as_path().to_owned(),
            }),
        }
    }
}

/// What runs as a job, or is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A job with a supervisor.
    Supervised {
        pid: i32,
        supervisor: i32,
        /// The supervisor's file to which it writes.
        output: Option<std::path::PathBuf>,
        /// Whether its terminal is the supervisor's.
        terminal: bool,
        owner: Owner,
    },
    /// Something else.
    Other(Managed),
}

/// A process that runs, and when it was started.
struct Running {
    pidfd: OwnedFd,
    started: u64,
}

impl Running {
    fn of(pid: i32) -> Option<Self> {
        let pidfd = pidfd::open(Pid::try_from(pid).ok()?).ok()?;
        let stat = Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
        let has_ended = sys::has_exited(pidfd.as_fd()).unwrap_or(true);
        (!has_ended).then_some(Self {
            pidfd,
            started: stat.started,
        })
    }

    /// The process of a managed job, if the ID still means it.
    fn managed(job: &JobRow, pid: i32) -> Option<Self> {
        Self::of(pid).filter(|found| Some(found.started) == job.kind.started)
    }
}

impl Jobs {
    /// Makes a job of what runs already, for root.
    ///
    /// # Errors
    /// It does not run, or the ID is taken.
    pub(crate) async fn manage(
        self: &Arc<Self>,
        caller: &Caller,
        what: Managed,
        id: &str,
    ) -> Result<JobRow, Failure> {
        let pid = what.pid().await?;
        let missing = || Failure::new(Kind::NotFound, format!("there is no process {pid}"));
        let running = Running::of(pid).ok_or_else(missing)?;
        let container = what.container();
        if container.is_none() {
            refuse_untouchable(pid)?;
        }
        let chosen = match (&container, id.is_empty()) {
            (_, false) => id.to_owned(),
            (Some(Container::Runc { id, .. } | Container::Containerd { id, .. }), true) => {
                id.clone()
            }
            (None, true) => names::random(0),
        };
        let now = now_micros();
        let row = JobRow {
            key: JobKey {
                uid: caller.uid(),
                id: JobId::parse(&chosen).map_err(JobError::from)?,
            },
            state: JobState::Managed { pid },
            since: now,
            created: now,
            restarts: 0,
            restart_policy: RestartPolicy::Never,
            command: command(pid),
            working_directory: fs::read_link(format!("/proc/{pid}/cwd"))
                .map_or_else(|_| Bytes::from("/"), |path| Bytes::of_path(&path)),
            terminal: false,
            log_file: None,
            kind: JobKind {
                container,
                started: Some(running.started),
            },
            checkpoints: Checkpoints::default(),
        };
        let (key, inserted) = (row.key.clone(), row.clone());
        match self.query(move |store| store.insert(&inserted)).await? {
            Ok(()) => {}
            Err(StoreError::Exists) => return Err(JobError::Exists(key.id).into()),
            Err(error) => return Err(JobError::from(error).into()),
        }
        self.changed();
        self.watch_managed(key, running.pidfd);
        Ok(row)
    }

    /// A job that runs.
    ///
    /// # Errors
    /// There is no such job of the caller's, or it does not run.
    pub(crate) async fn target(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Wanted,
    ) -> Result<Target, Failure> {
        let job = self.find(caller, wanted).await?;
        match job.state {
            JobState::Running { pid, supervisor } => Ok(Target::Supervised {
                pid,
                supervisor: supervisor.cast_signed(),
                output: (!job.terminal && job.log_file.is_none())
                    .then(|| self.files(&job.key).output()),
                terminal: job.terminal,
                owner: self.owner(&job.key).await?,
            }),
            JobState::Managed { pid } => {
                self.check_managed(&job, pid)?;
                Ok(Target::Other(Managed::of(&job, pid)))
            }
            state => Err(JobError::not_running(&job.key.id, state).into()),
        }
    }

    /// Watches the managed jobs of the last daemon, or notes that they have ended.
    pub(super) async fn recover_managed(self: &Arc<Self>, job: JobRow) -> Result<(), JobError> {
        let JobState::Managed { pid } = job.state else {
            return Ok(());
        };
        match Running::managed(&job, pid) {
            Some(running) => self.watch_managed(job.key, running.pidfd),
            None => self.managed_ended(&job.key).await?,
        }
        Ok(())
    }

    fn watch_managed(self: &Arc<Self>, key: JobKey, pidfd: OwnedFd) {
        let jobs = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(pidfd) = sys::register_readable(pidfd) {
                // An error means that nobody can know more.
                let _ = pidfd.readable().await;
            }
            if let Err(error) = jobs.managed_ended(&key).await {
                log::error!("job {} of user {}: {error}", key.id, key.uid);
            }
        });
    }

    async fn managed_ended(self: &Arc<Self>, key: &JobKey) -> Result<(), JobError> {
        let ended = key.clone();
        self.query(move |store| store.managed_ended(&ended, now_micros()))
            .await??;
        self.changed();
        Ok(())
    }

    /// Dumps a managed job. A client that goes away cancels the dump, but not its entry in
    /// the catalogue if it was too late for that.
    pub(super) async fn dump_managed(
        self: &Arc<Self>,
        job: &JobRow,
        pid: i32,
        options: &DumpOptions,
        tell: &Tell,
    ) -> Result<Dumped, Failure> {
        let (jobs, job, options, tell) =
            (Arc::clone(self), job.clone(), options.clone(), tell.clone());
        detached(|gone| async move { jobs.run_managed(&job, pid, &options, &tell, gone).await })
            .await
    }

    async fn run_managed(
        self: &Arc<Self>,
        job: &JobRow,
        pid: i32,
        options: &DumpOptions,
        tell: &Tell,
        gone: oneshot::Receiver<()>,
    ) -> Result<Dumped, Failure> {
        let cancelled = || Failure::new(Kind::Cancelled, "cancelled");
        let named = DumpOptions {
            name: match options.name.is_empty() {
                true => job.key.id.to_string(),
                false => options.name.clone(),
            },
            ..options.clone()
        };
        self.check_managed(job, pid)?;
        let dumped = match Managed::of(job, pid) {
            Managed::Process(pid) => {
                let _turn = self.dump_turn(job.key.uid).await;
                process::dump(pid, false, &named, tell, gone).await?
            }
            Managed::Runc(container) => tokio::select! {
                dumped = runc::dump(&container, &named, tell) => dumped?,
                _ = gone => return Err(cancelled()),
            },
            Managed::Containerd(container) => {
                let image = match options.name.is_empty() {
                    true => format!("cedana/{}:{}", job.key.id, now_micros()),
                    false => options.name.clone(),
                };
                tokio::select! {
                    dumped = containerd::dump(&container, &image, options, tell) => dumped?,
                    _ = gone => return Err(cancelled()),
                }
            }
        };
        let path = match dumped.image.is_empty() {
            true => Bytes::of_path(&dumped.path),
            false => Bytes::from(&*dumped.image),
        };
        let bytes = dumped.path.metadata().map_or(0, |file| file.len());
        let bytes = bytes.max(dumped.stored_bytes);
        let (key, ends) = (job.key.clone(), !options.leave_running);
        let recorded = self.query(move |store| {
            store.add_checkpoint(&key, &path.0, now_micros(), bytes)?;
            match ends {
                true => store
                    .set_state(&key, JobState::Checkpointed, now_micros(), 0)
                    .map(drop),
                false => Ok(()),
            }
        });
        recorded.await?.map_err(JobError::from)?;
        self.changed();
        Ok(dumped)
    }

    /// Whether the ID still means the process that is managed.
    fn check_managed(&self, job: &JobRow, pid: i32) -> Result<(), JobError> {
        match Running::managed(job, pid) {
            Some(_) => Ok(()),
            None => Err(JobError::not_running(&job.key.id, JobState::Gone)),
        }
    }

    /// Sends a signal to the first process of a managed job.
    pub(super) fn signal_managed(
        &self,
        job: &JobRow,
        pid: i32,
        signal: i32,
    ) -> Result<(), JobError> {
        let ended = || JobError::not_running(&job.key.id, JobState::Gone);
        let running = Running::managed(job, pid).ok_or_else(ended)?;
        pidfd::signal(running.pidfd.as_fd(), signal).map_err(|_| ended())
    }
}

/// Refuses what is never dumped: init, kernel threads, this daemon.
fn refuse_untouchable(pid: i32) -> Result<(), Failure> {
    let found = Pid::try_from(pid)
        .ok()
        .and_then(cedana_process::untouchable);
    match found {
        Some(obstacle) => Err(Failure::new(
            Kind::State,
            format!("process {pid} cannot be managed: {obstacle}"),
        )),
        None => Ok(()),
    }
}

/// The command line of a process, for people.
fn command(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let words: Vec<Bytes> = line
        .split(|byte| *byte == 0)
        .take(MAX_WORDS)
        .map(|word| Bytes(word.to_vec()))
        .collect();
    quote::command(&words)
}
