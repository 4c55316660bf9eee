//! A container as the task service sees it: its init, its exec processes, its state,
//! and the order of requests.
//!
//! **Locks.** Containers share nothing but the reaper and the event queue, so a slow
//! operation on one never delays another. Each container has two locks:
//! - `state` is held for an instant. State, Pids, Wait and Connect take it and answer
//!   at any time.
//! - `operation_lock` is held while the OCI runtime works. The lock orders the
//!   operations that change the container. Starting an exec process takes the lock
//!   shared, so several may start at once, but none during a checkpoint.
//!
//! Kill takes neither: a container can be killed at any time, and the operation that
//! is in progress then fails.
//!
//! ```text
//! create, start, exec, kill, pause, update, checkpoint, delete   one verb each
//! process                 init or an exec process: PID, streams and exit
//! exec_process            the states of an exec process
//! state                   the states of the task
//! exit                    exit events and the cleanup after init's exit
//! freeze                  the freezer cgroup
//! early_resume, between_attempts   when a paused task may run during a checkpoint
//! netns_holder            the network namespace between Create and Start of a restore
//! ```

mod between_attempts;
mod checkpoint;
mod create;
mod delete;
mod early_resume;
mod exec;
mod exec_process;
mod exit;
mod freeze;
mod kill;
mod netns_holder;
mod pause;
mod process;
mod start;
mod state;
mod update;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use containerd_shim::api::{StateResponse, Status};
use containerd_shim::protos::{
    protobuf::well_known_types::any::Any, shim::oci::ProcessDetails, types::task::ProcessInfo,
};
use tokio::{
    sync::{RwLock, watch},
    task::AbortHandle,
};

use crate::{
    cgroup::Cgroup,
    error::{Context, Error, Result, at},
    events::Events,
    options::CreateOptions,
    own_thread::on_new_thread,
    reaper::Reaper,
    runtime::Runtime,
    stdio::{Owner, Stdio},
};
use cedana_contract::id::{ContainerId, ExecId};
use cedana_contract::pid::Pid;
use exec_process::Exec;
use process::Process;
use state::State;

pub(crate) use delete::remove_unpacked_checkpoint;
pub(crate) use early_resume::is_stock_name;
use netns_holder::NetnsHolder;
pub(crate) use process::{pid_number, timestamp};

/// The state that all containers of a shim share.
pub(crate) struct Host {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// Whether containerd started the shim by the file name of containerd's own shim.
    pub(crate) named_as_stock: bool,
    /// The OCI runtime for containers whose options name none.
    pub(crate) default_runtime: PathBuf,
    /// Reaps all children.
    pub(crate) reaper: Reaper,
    /// Delivers all events to containerd.
    pub(crate) events: Events,
}

/// One container and its processes.
pub(crate) struct Container {
    /// The task's ID.
    pub(crate) id: ContainerId,
    host: Arc<Host>,
    bundle: PathBuf,
    /// The mount point of the root, if containerd had the shim mount the root.
    rootfs: Option<PathBuf>,
    options: CreateOptions,
    runtime: Runtime,
    /// The checkpoint that Start restores.
    restore_from: Option<PathBuf>,
    has_own_pid_namespace: bool,
    /// Whether clients know the container's runtime as `io.containerd.runc.v2`.
    named_as_stock: bool,
    /// The process that stands in for init between Create and Start of a restore.
    holder: Mutex<Option<NetnsHolder>>,
    /// The other ends of the client's fifos, held open between Create and Start of a
    /// restore.
    held_fifos: Mutex<Vec<std::fs::File>>,
    init: Process,
    state: Mutex<State>,
    /// Whether a client has requested the task's state since it was paused.
    pause_observed: AtomicBool,
    /// Whether a checkpoint has resumed the task before the client's own resume.
    resumed_early: AtomicBool,
    operation_lock: RwLock<()>,
    cgroup: Mutex<Option<Cgroup>>,
    oom_watch: Mutex<Option<AbortHandle>>,
    execs: Mutex<BTreeMap<ExecId, Arc<Exec>>>,
    /// The number of running exec processes. Init's exit is published after theirs.
    running_execs: watch::Sender<usize>,
}

impl Container {
    /// The PID of init; `None` before init exists.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.init.pid()
    }

    /// The process that a request means.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown exec ID.
    pub(crate) fn process(&self, target: &Target) -> Result<ProcessRef<'_>> {
        match target {
            Target::Init => Ok(ProcessRef::Init(&self.init)),
            Target::Exec(id) => self.exec(id).map(ProcessRef::Exec),
        }
    }

    fn exec(&self, id: &ExecId) -> Result<Arc<Exec>> {
        self.execs()
            .get(id)
            .cloned()
            .ok_or_else(|| no_such_process(id))
    }

    /// The answer to a State request.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown exec ID.
    pub(crate) fn answer_state(&self, target: &Target) -> Result<StateResponse> {
        let process = self.process(target)?;
        self.pause_observed.store(true, Relaxed);
        let container = self.state().status();
        let status = match (&process, container) {
            // All processes share the container's freezer.
            (ProcessRef::Exec(_), Status::PAUSED | Status::PAUSING) => container,
            (ProcessRef::Exec(exec), _) => exec.status(),
            (ProcessRef::Init(_), _) => container,
        };
        let id = match &process {
            ProcessRef::Exec(exec) => exec.id.to_string(),
            ProcessRef::Init(_) => self.id.to_string(),
        };
        let ended = match &process {
            ProcessRef::Exec(exec) => exec.ended(),
            ProcessRef::Init(init) => init.ended(),
        };
        let process: &Process = &process;
        let Stdio {
            stdin,
            stdout,
            stderr,
            terminal,
        } = process.stdio.clone();
        Ok(StateResponse {
            id,
            bundle: self.bundle.display().to_string(),
            pid: pid_number(process.pid()),
            status: status.into(),
            stdin,
            stdout,
            stderr,
            terminal,
            exit_status: ended.map_or(0, |e| e.status.cast_unsigned()),
            exited_at: timestamp(ended),
            exec_id: target.exec_id().to_owned(),
            ..StateResponse::default()
        })
    }

    /// All processes in the container's cgroup. Exec processes carry their exec ID.
    pub(crate) fn processes(&self) -> Vec<ProcessInfo> {
        let pids = self.cgroup().map(|c| c.pids()).unwrap_or_default();
        let execs = self.execs();
        pids.into_iter()
            .map(|pid| ProcessInfo {
                pid: pid_number(Some(pid)),
                info: execs
                    .values()
                    .find(|exec| exec.process.pid() == Some(pid))
                    .map(|exec| process_details(&exec.id))
                    .into(),
                ..ProcessInfo::default()
            })
            .collect()
    }

    /// The metrics of the container's cgroup.
    ///
    /// # Errors
    /// [`Error::NotFound`] before the container has a cgroup.
    pub(crate) fn metrics(&self) -> Result<Any> {
        self.cgroup()
            .map(|cgroup| cgroup.metrics())
            .ok_or_else(|| Error::NotFound("cgroup does not exist".into()))
    }

    fn cgroup(&self) -> Option<Cgroup> {
        lock(&self.cgroup).clone()
    }

    /// Finds the cgroup while init is alive, and remembers it after init's exit.
    fn find_cgroup(&self) {
        let Some(pid) = self.pid() else { return };
        match Cgroup::of(pid) {
            Ok(cgroup) => *lock(&self.cgroup) = Some(cgroup),
            Err(e) => log::warn!("container {}: cannot find its cgroup: {e}", self.id),
        }
    }

    fn state(&self) -> State {
        *lock(&self.state)
    }

    fn set_state(&self, next: State) {
        lock(&self.state).set_unless_stopped(next);
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<ExecId, Arc<Exec>>> {
        lock(&self.execs)
    }

    /// Has the OCI runtime create a process. Loggers get `id` as the process's ID.
    async fn create_process(
        &self,
        process: &Process,
        id: &str,
        command: Command,
        what: &str,
    ) -> Result<()> {
        let owner = Owner {
            id,
            namespace: &self.host.namespace,
            options: &self.options,
            reaper: &self.host.reaper,
        };
        process
            .make(command, &self.id, &self.runtime, &self.bundle, &owner, what)
            .await
    }

    fn init_pid_file(&self) -> PathBuf {
        self.bundle.join(INIT_PID_FILE)
    }

    /// Creates CRIU's work directory: the client's, if it names one, else one of this
    /// name. containerd links the bundle's `work` to a directory on disk, and removes
    /// that directory with the task.
    async fn make_criu_work(&self, clients: &str, name: &'static str) -> Result<PathBuf> {
        let (clients, bundle) = (PathBuf::from(clients), self.bundle.clone());
        on_new_thread(move || {
            let work = bundle.join("work");
            let work = match () {
                () if !clients.as_os_str().is_empty() => clients,
                () if work.exists() => work.join(name),
                () => bundle.join(name),
            };
            std::fs::create_dir_all(&work).context(|| at("create", &work))?;
            Ok(work)
        })
        .await
    }
}

/// The file with init's PID, named as in containerd's own shim.
pub(crate) const INIT_PID_FILE: &str = "init.pid";

/// Whether an OCI runtime's error means that the runtime doesn't know the container:
/// runc "container does not exist", crun (1.28) "error opening file `.../status`: No
/// such file or directory".
fn is_unknown_container(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("does not exist")
        || text.contains("status`: no such file or directory")
        || text.contains("cannot open directory")
}

/// The process that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The container's init.
    Init,
    /// An exec process.
    Exec(ExecId),
}

impl Target {
    /// Parses the exec ID of a request: empty for init.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an ID that no exec process can have.
    pub(crate) fn parse(exec_id: &str) -> Result<Self> {
        match exec_id {
            "" => Ok(Self::Init),
            id => ExecId::parse(id)
                .map(Self::Exec)
                .ok_or_else(|| no_such_process(id)),
        }
    }

    /// The exec ID of a request; empty for init.
    fn exec_id(&self) -> &str {
        match self {
            Self::Init => "",
            Self::Exec(id) => id,
        }
    }
}

fn no_such_process(exec_id: &str) -> Error {
    Error::NotFound(format!("process does not exist {exec_id}"))
}

/// Init or an exec process.
pub(crate) enum ProcessRef<'a> {
    /// The container's init.
    Init(&'a Process),
    /// An exec process.
    Exec(Arc<Exec>),
}

impl std::ops::Deref for ProcessRef<'_> {
    type Target = Process;

    fn deref(&self) -> &Process {
        match self {
            ProcessRef::Init(process) => process,
            ProcessRef::Exec(exec) => &exec.process,
        }
    }
}

fn process_details(exec_id: &str) -> Any {
    use containerd_shim::protos::protobuf::{Message, MessageFull};
    let details = ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..ProcessDetails::default()
    };
    Any {
        type_url: ProcessDetails::descriptor().full_name().to_owned(),
        // Serialising a proto3 message to memory can't fail.
        value: details.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
