//! A client of a shim's task service, without containerd in between.
//!
//! `ctr` cannot send every option, shows only containerd's errors, and waits for
//! containerd. This client uses the socket and the interface that containerd uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use containerd_shim_protos::ttrpc::context::{self, Context};
use containerd_shim_protos::ttrpc::{Client, Error, Request};

use crate::NAMESPACE;

/// The deadline of a request. A checkpoint of a small process on a loaded machine
/// takes far less.
const PATIENCE: Duration = Duration::from_secs(180);

/// A shim's error: the gRPC code and the message.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The code's name, for example `NOT_FOUND`.
    pub code: String,
    /// The shim's message.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// One task of a shim. Clones use the same connection, and may do so at the same time.
#[derive(Clone)]
pub struct Task {
    id: String,
    service: &'static str,
    client: Client,
    patience: Duration,
}

impl Task {
    /// The task of a container that containerd runs.
    #[track_caller]
    pub(crate) fn of_container(id: &str) -> Self {
        let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task")
            .join(NAMESPACE)
            .join(id);
        let read = |name: &str| fs::read_to_string(bundle.join(name));
        let announced = read("bootstrap.json")
            .or_else(|_| read("address"))
            .unwrap_or_else(|error| panic!("{}: no shim announced: {error}", bundle.display()));
        Self::announced(id, &announced)
    }

    /// The task of a shim that answered its `start` call with `announced`.
    #[track_caller]
    pub(crate) fn announced(id: &str, announced: &str) -> Self {
        let (address, version) = match serde_json::from_str::<serde_json::Value>(announced) {
            Ok(answer) => (
                answer["address"].as_str().unwrap_or_default().to_owned(),
                answer["version"].as_i64().unwrap_or(2),
            ),
            Err(_) => (announced.trim().to_owned(), 2),
        };
        let client = Client::connect(&address)
            .unwrap_or_else(|error| panic!("cannot reach the shim at {announced}: {error}"));
        let service = match version {
            3 => "containerd.task.v3.Task",
            _ => "containerd.task.v2.Task",
        };
        Self {
            id: id.to_owned(),
            service,
            client,
            patience: PATIENCE,
        }
    }

    /// Another task of the same shim.
    pub fn other(&self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..self.clone()
        }
    }

    /// The same task with a short deadline.
    pub(crate) fn within(&self, patience: Duration) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// Create with the caller's request.
    pub fn create(&self, request: &CreateTaskRequest) -> Result<CreateTaskResponse, Refused> {
        self.call("Create", request)
    }

    /// Start of the task, or of the process `exec_id` if that is not empty.
    pub fn start(&self, exec_id: &str) -> Result<StartResponse, Refused> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.call(
            "Start",
            &StartRequest {
                id,
                exec_id,
                ..Default::default()
            },
        )
    }

    /// State of the task or of a process of it.
    pub fn state(&self, exec_id: &str) -> Result<StateResponse, Refused> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.call(
            "State",
            &StateRequest {
                id,
                exec_id,
                ..Default::default()
            },
        )
    }

    /// Wait: returns when the task, or a process of it, has exited.
    pub fn wait(&self, exec_id: &str) -> Result<WaitResponse, Refused> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.call(
            "Wait",
            &WaitRequest {
                id,
                exec_id,
                ..Default::default()
            },
        )
    }

    /// Kill with a signal number.
    pub fn kill(&self, exec_id: &str, signal: i32, all: bool) -> Result<(), Refused> {
        let signal = signal.unsigned_abs();
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.empty(
            "Kill",
            &KillRequest {
                id,
                exec_id,
                signal,
                all,
                ..Default::default()
            },
        )
    }

    /// Delete of the task or of a process of it.
    pub fn delete(&self, exec_id: &str) -> Result<DeleteResponse, Refused> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.call(
            "Delete",
            &DeleteRequest {
                id,
                exec_id,
                ..Default::default()
            },
        )
    }

    /// Pids: every process of the container.
    pub fn pids(&self) -> Result<PidsResponse, Refused> {
        self.call(
            "Pids",
            &PidsRequest {
                id: self.id.clone(),
                ..Default::default()
            },
        )
    }

    /// Pause.
    pub fn pause(&self) -> Result<(), Refused> {
        self.empty(
            "Pause",
            &PauseRequest {
                id: self.id.clone(),
                ..Default::default()
            },
        )
    }

    /// Resume.
    pub fn resume(&self) -> Result<(), Refused> {
        self.empty(
            "Resume",
            &ResumeRequest {
                id: self.id.clone(),
                ..Default::default()
            },
        )
    }

    /// Exec with standard streams at the given paths, each of which may be empty.
    pub fn exec(&self, exec_id: &str, process: &str, io: [&str; 3]) -> Result<(), Refused> {
        let [stdin, stdout, stderr] = io.map(String::from);
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        let spec = Some(json("opencontainers/runtime-spec/1/Process", process)).into();
        let request = ExecProcessRequest {
            id,
            exec_id,
            stdin,
            stdout,
            stderr,
            spec,
            ..Default::default()
        };
        self.empty("Exec", &request)
    }

    /// ResizePty, in characters.
    pub fn resize_pty(&self, width: u32, height: u32) -> Result<(), Refused> {
        let id = self.id.clone();
        self.empty(
            "ResizePty",
            &ResizePtyRequest {
                id,
                width,
                height,
                ..Default::default()
            },
        )
    }

    /// CloseIO of standard input.
    pub fn close_stdin(&self, exec_id: &str) -> Result<(), Refused> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.empty(
            "CloseIO",
            &CloseIORequest {
                id,
                exec_id,
                stdin: true,
                ..Default::default()
            },
        )
    }

    /// Update with the resources of the OCI runtime specification, as JSON.
    pub fn update(&self, resources: &str) -> Result<(), Refused> {
        let id = self.id.clone();
        let resources = Some(json(
            "opencontainers/runtime-spec/1/LinuxResources",
            resources,
        ))
        .into();
        self.empty(
            "Update",
            &UpdateTaskRequest {
                id,
                resources,
                ..Default::default()
            },
        )
    }

    /// Stats: metrics of the host's cgroup version.
    pub fn stats(&self) -> Result<StatsResponse, Refused> {
        self.call(
            "Stats",
            &StatsRequest {
                id: self.id.clone(),
                ..Default::default()
            },
        )
    }

    /// Connect: the shim's and the task's PID.
    pub fn connect(&self) -> Result<ConnectResponse, Refused> {
        self.call(
            "Connect",
            &ConnectRequest {
                id: self.id.clone(),
                ..Default::default()
            },
        )
    }

    /// Shutdown.
    pub fn shutdown(&self, now: bool) -> Result<(), Refused> {
        self.empty(
            "Shutdown",
            &ShutdownRequest {
                id: self.id.clone(),
                now,
                ..Default::default()
            },
        )
    }

    /// Checkpoint into `path` with the options that containerd sends.
    pub fn checkpoint(
        &self,
        path: &Path,
        options: Option<CheckpointOptions>,
    ) -> Result<(), Refused> {
        let options = options.map(|o| packed("containerd.runc.v1.CheckpointOptions", &o));
        self.checkpoint_with(path, options)
    }

    /// Checkpoint with options of any type.
    pub fn checkpoint_with(&self, path: &Path, options: Option<Any>) -> Result<(), Refused> {
        let request = CheckpointTaskRequest {
            id: self.id.clone(),
            path: path.display().to_string(),
            options: options.into(),
            ..Default::default()
        };
        self.empty("Checkpoint", &request)
    }

    fn empty(&self, method: &str, request: &impl Message) -> Result<(), Refused> {
        self.call::<_, Empty>(method, request).map(drop)
    }

    fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> Result<A, Refused> {
        let mut context: Context = context::with_duration(self.patience);
        context.add("containerd-namespace-ttrpc".into(), NAMESPACE.into());
        let mut call = Request::new();
        call.set_service(self.service.into());
        call.set_method(method.into());
        call.set_timeout_nano(context.timeout_nano);
        call.set_metadata(context::to_pb(context.metadata));
        call.set_payload(
            request
                .write_to_bytes()
                .unwrap_or_else(|e| panic!("{method}: {e}")),
        );
        match self.client.request(call) {
            Ok(answer) => Ok(
                A::parse_from_bytes(&answer.payload).unwrap_or_else(|e| panic!("{method}: {e}"))
            ),
            Err(Error::RpcStatus(status)) => Err(Refused {
                code: format!("{:?}", status.code()),
                message: status.message().to_owned(),
            }),
            Err(error) => Err(Refused {
                code: "TRANSPORT".into(),
                message: format!("{method}: {error}"),
            }),
        }
    }
}

/// A protobuf message packed as containerd does it: the type's name without a host.
pub(crate) fn packed(type_url: &str, message: &impl Message) -> Any {
    let value = message
        .write_to_bytes()
        .unwrap_or_else(|e| panic!("{type_url}: {e}"));
    Any {
        type_url: type_url.into(),
        value,
        ..Default::default()
    }
}

/// A Go structure packed as containerd does it: JSON under the structure's name.
fn json(name: &str, value: &str) -> Any {
    Any {
        type_url: format!("types.containerd.io/{name}"),
        value: value.into(),
        ..Default::default()
    }
}
