//! containerd's task service (api/runtime/task/v3): finds the container of a request
//! and forwards the request.
//!
//! The map of containers is locked for the look-up only. An ID is reserved before its
//! container is created, so a second Create is refused while the first is running.
//!
//! Operations that change a container run to completion even if the client stops
//! waiting. The server drops a handler when the client's deadline passes or its
//! connection breaks, as when containerd is killed, while the OCI runtime continues.
//! A start that is recorded in part would leave a container without a supervisor. So
//! these handlers spawn the work and only wait for its result.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use containerd_shim::{
    ExitSignal, TtrpcContext, TtrpcResult,
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protos::{protobuf::MessageField, shim_async::Task},
};
use log::{debug, info};

use crate::{
    container::{Container, Host, Target, pid_number, timestamp},
    error::{Error, Result},
    options::CheckpointOptions,
};

/// The task service of one shim, for one container or all containers of a pod.
pub(crate) struct Service {
    host: Arc<Host>,
    containers: Containers,
    exit: Arc<ExitSignal>,
}

/// The containers by ID.
#[derive(Clone, Default)]
struct Containers(Arc<Mutex<HashMap<String, Slot>>>);

enum Slot {
    Creating,
    Ready(Arc<Container>),
}

impl Service {
    /// A service without containers; `exit` ends the shim.
    pub(crate) fn new(host: Host, exit: Arc<ExitSignal>) -> Self {
        Self {
            host: Arc::new(host),
            containers: Containers::default(),
            exit,
        }
    }
}

impl Containers {
    fn get(&self, id: &str) -> Result<Arc<Container>> {
        match self.lock().get(id) {
            Some(Slot::Ready(container)) => Ok(container.clone()),
            _ => Err(Error::NotFound(format!("container {id} not created"))),
        }
    }

    fn reserve(&self, id: &str) -> Result<()> {
        let mut containers = self.lock();
        if containers.contains_key(id) {
            return Err(Error::AlreadyExists(format!(
                "container {id} already exists"
            )));
        }
        containers.insert(id.to_owned(), Slot::Creating);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` to completion even if the caller stops waiting.
async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|e| Err(Error::Runtime(format!("the request was interrupted: {e}"))))
}

#[async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> TtrpcResult<CreateTaskResponse> {
        let id = request.id.clone();
        info!("create {id} from {}", request.bundle);
        self.containers.reserve(&id)?;
        let (containers, host) = (self.containers.clone(), self.host.clone());
        let created = run_to_completion(async move {
            let created = Container::create(&host, request).await;
            match &created {
                Ok(container) => {
                    let slot = Slot::Ready(container.clone());
                    containers.lock().insert(id, slot);
                }
                Err(e) => {
                    info!("create {id}: {e}");
                    containers.lock().remove(&id);
                }
            }
            created
        });
        Ok(CreateTaskResponse {
            pid: pid_number(created.await?.pid()),
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        info!("start {} {}", request.id, request.exec_id);
        let container = self.containers.get(&request.id)?;
        let target = Target::parse(&request.exec_id)?;
        let started = run_to_completion(async move {
            match target {
                Target::Init => container.start().await,
                Target::Exec(id) => container.start_exec(&id).await,
            }
        });
        Ok(StartResponse {
            pid: pid_number(started.await?),
            ..StartResponse::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        info!("delete {} {}", request.id, request.exec_id);
        let container = self.containers.get(&request.id)?;
        let target = Target::parse(&request.exec_id)?;
        let containers = self.containers.clone();
        let deleted = run_to_completion(async move {
            match target {
                Target::Init => {
                    let deleted = container.delete().await?;
                    containers.lock().remove(&request.id);
                    Ok(deleted)
                }
                Target::Exec(id) => container.delete_exec(&id).await,
            }
        });
        let (pid, ended) = deleted.await?;
        Ok(DeleteResponse {
            pid: pid_number(pid),
            exit_status: ended.map_or(0, |e| e.status.cast_unsigned()),
            exited_at: timestamp(ended),
            ..DeleteResponse::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        Ok(self
            .containers
            .get(&request.id)?
            .answer_state(&Target::parse(&request.exec_id)?)?)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> TtrpcResult<PidsResponse> {
        Ok(PidsResponse {
            processes: self.containers.get(&request.id)?.processes(),
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> TtrpcResult<Empty> {
        let container = self.containers.get(&request.id)?;
        run_to_completion(async move { container.pause().await }).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> TtrpcResult<Empty> {
        let container = self.containers.get(&request.id)?;
        run_to_completion(async move { container.resume().await }).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> TtrpcResult<Empty> {
        let container = self.containers.get(&request.id)?;
        let options = CheckpointOptions::from_request(request.options.as_ref())?;
        info!(
            "checkpoint {} into {}: {options:?}",
            request.id, request.path
        );
        run_to_completion(async move {
            let done = container.checkpoint(&request.path, &options).await;
            if let Err(e) = &done {
                info!("checkpoint {}: {e}", request.id);
            }
            done
        })
        .await?;
        Ok(Empty::default())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        info!(
            "kill {} {}: signal {}",
            request.id, request.exec_id, request.signal
        );
        let container = self.containers.get(&request.id)?;
        let target = Target::parse(&request.exec_id)?;
        run_to_completion(
            async move { container.kill(&target, request.signal, request.all).await },
        )
        .await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> TtrpcResult<Empty> {
        info!("exec {} {}", request.id, request.exec_id);
        self.containers.get(&request.id)?.add_exec(&request)?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> TtrpcResult<Empty> {
        let size = |n: u32| {
            u16::try_from(n)
                .map_err(|_| Error::InvalidArgument(format!("terminal size {n} is above 65535")))
        };
        let (columns, rows) = (size(request.width)?, size(request.height)?);
        self.containers
            .get(&request.id)?
            .process(&Target::parse(&request.exec_id)?)?
            .resize(columns, rows)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> TtrpcResult<Empty> {
        let container = self.containers.get(&request.id)?;
        if request.stdin {
            container
                .process(&Target::parse(&request.exec_id)?)?
                .close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        let container = self.containers.get(&request.id)?;
        run_to_completion(async move { container.update(request.resources.as_ref()).await })
            .await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        let container = self.containers.get(&request.id)?;
        let target = Target::parse(&request.exec_id)?;
        let ended = container.process(&target)?.wait().await;
        Ok(WaitResponse {
            exit_status: ended.status.cast_unsigned(),
            exited_at: MessageField::some(ended.timestamp()),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> TtrpcResult<StatsResponse> {
        Ok(StatsResponse {
            stats: MessageField::some(self.containers.get(&request.id)?.metrics()?),
            ..StatsResponse::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> TtrpcResult<ConnectResponse> {
        // An unknown container is no error: containerd sends Connect before Create.
        let task_pid = self.containers.get(&request.id).ok().and_then(|c| c.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid_number(task_pid),
            version: env!("CARGO_PKG_VERSION").into(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> TtrpcResult<Empty> {
        debug!("shutdown requested for {}", request.id);
        if self.containers.lock().is_empty() {
            self.exit.signal();
        }
        Ok(Empty::default())
    }
}
