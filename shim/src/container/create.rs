//! Create: mounts the root, and has the OCI runtime create the container with an init
//! that waits for Start.
//!
//! For a restore the OCI runtime is not called yet: Start restores, and until then a
//! netns holder stands in for init. The root is mounted in both cases, because
//! containerd unpacks the writable layer into the root between Create and Start.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use containerd_shim::protos::protobuf::{MessageField, well_known_types::any::Any};
use containerd_shim::{
    api::CreateTaskRequest,
    event::Event,
    protos::events::task::{TaskCreate, TaskIO},
};
use log::warn;
use tokio::sync::{RwLock, watch};

use super::process::Process;
use super::state::State;
use super::{
    Container, Host,
    delete::{record_unpacked_checkpoint, remove_unpacked},
    lock,
};
use crate::container::process::pid_number;
use crate::{
    error::{Context, Error, Result, at},
    options::CreateOptions,
    own_thread::on_new_thread,
    rootfs,
    runtime::{Runtime, read_pid},
    spec::{self, Spec},
    stdio::{Stdio, hold_fifos},
};
use cedana_contract::{id::ContainerId, pid::Pid};

impl Container {
    /// Creates the container that `request` describes. On failure the root is
    /// unmounted, no process is left, and a checkpoint that containerd unpacked for
    /// the container is removed.
    ///
    /// # Errors
    /// An unreadable bundle, unknown options, or the OCI runtime's refusal.
    pub(crate) async fn create(
        host: &Arc<Host>,
        request: CreateTaskRequest,
    ) -> Result<Arc<Container>> {
        let bundle = PathBuf::from(&request.bundle);
        if !request.checkpoint.is_empty() {
            record_unpacked_checkpoint(&bundle, &request.checkpoint).await;
        }
        let created = Self::prepare_and_create(host, request).await;
        if created.is_err() {
            remove_unpacked(bundle).await;
        }
        created
    }

    async fn prepare_and_create(
        host: &Arc<Host>,
        request: CreateTaskRequest,
    ) -> Result<Arc<Container>> {
        let id = ContainerId::parse(&request.id).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "invalid container ID {:?}: it must be a file name",
                request.id
            ))
        })?;
        if !request.parent_checkpoint.is_empty() {
            return Err(Error::InvalidArgument(format!(
                "parent checkpoint {} is not supported: restore from a whole checkpoint",
                request.parent_checkpoint
            )));
        }
        let named_as_stock =
            host.named_as_stock && CreateOptions::is_runc_message(request.options.as_ref());
        let bundle = PathBuf::from(&request.bundle);
        let Prepared {
            options,
            spec,
            runtime,
        } = Prepared::new(host, request.options.as_ref(), &bundle).await?;
        let restore_from = [&request.checkpoint, &options.criu_image_path]
            .into_iter()
            .find(|path| !path.is_empty())
            .map(PathBuf::from);
        let container = Arc::new(Container {
            id,
            host: host.clone(),
            rootfs: (!request.rootfs.is_empty()).then(|| bundle.join("rootfs")),
            runtime,
            restore_from,
            has_own_pid_namespace: spec.has_own_pid_namespace(),
            named_as_stock,
            holder: Mutex::default(),
            held_fifos: Mutex::default(),
            init: Process::new(Stdio::new(
                &request.stdin,
                &request.stdout,
                &request.stderr,
                request.terminal,
            )),
            state: Mutex::new(State::Created),
            pause_observed: AtomicBool::new(false),
            resumed_early: AtomicBool::new(false),
            operation_lock: RwLock::new(()),
            cgroup: Mutex::default(),
            oom_watch: Mutex::default(),
            execs: Mutex::default(),
            running_execs: watch::Sender::new(0),
            bundle,
            options,
        });
        container.make(request, &spec).await?;
        Ok(container)
    }

    async fn make(self: &Arc<Self>, request: CreateTaskRequest, spec: &Spec) -> Result<()> {
        let created = TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs.clone(),
            io: MessageField::some(TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..TaskIO::default()
            }),
            checkpoint: request.checkpoint,
            ..TaskCreate::default()
        };
        if let Some(rootfs) = &self.rootfs {
            rootfs::mount(request.rootfs, rootfs.clone(), self.host.reaper.clone()).await?;
        }
        if let Some(checkpoint) = &self.restore_from {
            if let Err(e) = self.prepare_restore(spec, checkpoint).await {
                self.unmount().await;
                return Err(e);
            }
            self.send(TaskCreate {
                pid: pid_number(self.pid()),
                ..created
            });
            return Ok(());
        }
        let watch = self.host.reaper.watch();
        match self.create_init().await {
            Ok(pid) => {
                self.init.set_pid(pid);
                self.find_cgroup();
                self.send(TaskCreate {
                    pid: pid_number(Some(pid)),
                    ..created
                });
                self.follow_init(watch.claim(pid));
                Ok(())
            }
            Err(e) => {
                self.undo_create().await;
                self.unmount().await;
                Err(e)
            }
        }
    }

    async fn prepare_restore(self: &Arc<Self>, spec: &Spec, checkpoint: &Path) -> Result<()> {
        let container = self.clone();
        on_new_thread(move || {
            spec::claim_cgroup(&container.bundle, &container.host.namespace, &container.id)
        })
        .await?;
        if spec.wants_network_namespace() {
            self.hold_network_namespace(checkpoint).await?;
        }
        let stdio = self.init.stdio.clone();
        let fifos = on_new_thread(move || Ok(hold_fifos(&stdio))).await?;
        *lock(&self.held_fifos) = fifos;
        Ok(())
    }

    async fn create_init(&self) -> Result<Pid> {
        let mut command = self.runtime.command("create");
        command.arg("--bundle").arg(&self.bundle);
        command.arg("--pid-file").arg(self.init_pid_file());
        if self.options.no_pivot_root {
            command.arg("--no-pivot");
        }
        if self.options.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        self.create_process(&self.init, &self.id, command, "OCI runtime create failed")
            .await?;
        read_pid(self.init_pid_file()).await
    }

    /// Cleans up after a failed create or restore. The runtime may have created the
    /// container before the failure, for example when it sends no console.
    pub(super) async fn undo_create(&self) {
        if let Err(e) = self.delete_from_runtime().await {
            warn!("container {}: {e}", self.id);
        }
        self.init.finish_io().await;
    }

    /// Unmounts the root. A mount that stays busy is left for containerd's cleanup.
    pub(super) async fn unmount(&self) {
        if let Some(rootfs) = &self.rootfs
            && let Err(e) = rootfs::unmount(rootfs.clone()).await
        {
            warn!("container {}: {e}", self.id);
        }
    }

    /// Queues an event.
    pub(super) fn send(&self, event: impl Event + 'static) {
        self.host.events.send(event);
    }

    /// Runs a command of the OCI runtime that leaves no process behind.
    pub(super) async fn run(&self, command: std::process::Command, what: &str) -> Result<()> {
        self.runtime
            .run(&self.host.reaper, command, crate::runtime::Io::Quiet, what)
            .await
    }
}

/// What Create reads and writes before it makes anything.
struct Prepared {
    options: CreateOptions,
    spec: Spec,
    runtime: Runtime,
}

impl Prepared {
    /// Reads the options of the request and the bundle's spec, and saves the options in
    /// the bundle.
    async fn new(host: &Arc<Host>, options: Option<&Any>, bundle: &Path) -> Result<Self> {
        let (host, options, bundle) = (host.clone(), options.cloned(), bundle.to_owned());
        on_new_thread(move || {
            let mut options = CreateOptions::from_request(options.as_ref())?;
            let spec = Spec::read(&bundle)?;
            let runtime = Runtime::new(&options, &host.default_runtime, &host.namespace, &bundle);
            // The configuration may change before a cleanup, so the saved options name
            // the runtime that is used.
            options.binary_name = runtime.binary().display().to_string();
            options
                .save(&bundle)
                .context(|| at("write options into", &bundle))?;
            Ok(Self {
                options,
                spec,
                runtime,
            })
        })
        .await
    }
}
