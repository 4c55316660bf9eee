//! `CheckpointService`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::future::Future;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use cedana_api::v1;
use cedana_api::v1::subject::What;
use cedana_config::Config;
use cedana_contract::id::ContainerId;
use cedana_contract::progress::Phase;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{Answers, QUEUE, convert};
use crate::caller::Caller;
use crate::checkpoints::{
    DumpOptions, Dumped, Failure, Kind, Progress, RestoreOptions, Tell, Told, containerd, runc,
};
use crate::jobs::{Jobs, Wanted};
use crate::listen::auth::caller;

/// Serves checkpoints.
pub(crate) struct CheckpointService {
    jobs: Arc<Jobs>,
}

impl CheckpointService {
    pub(crate) fn new(jobs: Arc<Jobs>) -> Self {
        // Containers may have been deleted while no daemon ran.
        tokio::task::spawn_blocking(crate::checkpoints::sweep_bundles);
        Self { jobs }
    }
}

/// What a request is about, with the caller's right to it checked as far as it does not
/// depend on the thing itself.
enum Subject {
    Job(Wanted),
    Process(i32),
    Runc(runc::Container),
    Containerd(containerd::Container),
}

impl Subject {
    fn of(caller: &Caller, subject: Option<v1::Subject>) -> Result<Self, Status> {
        let what = subject.and_then(|subject| subject.what);
        let what = what.ok_or_else(|| Status::invalid_argument("the request names nothing"))?;
        if !caller.is_root() && !matches!(what, What::Job(_)) {
            return Err(Status::permission_denied(
                "only root may do this to containers and to processes that are no jobs; start the program with `cedana exec`, or use sudo",
            ));
        }
        Ok(match what {
            What::Job(job) => Self::Job(convert::wanted(Some(job))?),
            What::Process(pid) => Self::Process(
                i32::try_from(pid)
                    .ok()
                    .filter(|pid| *pid > 0)
                    .ok_or_else(|| {
                        Status::invalid_argument(format!("{pid} is not a process ID"))
                    })?,
            ),
            What::Runc(container) => Self::Runc(runc_container(container.id, container.root)?),
            What::Containerd(container) => Self::Containerd(containerd_container(container)?),
        })
    }
}

fn runc_container(id: String, root: Vec<u8>) -> Result<runc::Container, Status> {
    Ok(runc::Container {
        id: container_id(id)?,
        root: optional_path("the directory of containers", root)?,
    })
}

fn containerd_container(
    container: v1::ContainerdContainer,
) -> Result<containerd::Container, Status> {
    let or = |text: String, usual: &str| match text.is_empty() {
        true => usual.to_owned(),
        false => text,
    };
    let address = optional_path("containerd's address", container.address)?;
    Ok(containerd::Container {
        id: container_id(container.id)?,
        namespace: or(container.namespace, "default"),
        address: address.unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
    })
}

/// An ID is a name in runc's and containerd's directories.
fn container_id(id: String) -> Result<String, Status> {
    match ContainerId::parse(&id) {
        Some(_) => Ok(id),
        None => Err(Status::invalid_argument(format!(
            "{id:?} is not a container's ID: it is one part of a path"
        ))),
    }
}

fn optional_path(what: &str, bytes: Vec<u8>) -> Result<Option<PathBuf>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    match path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        true => Ok(Some(path)),
        false => Err(Status::invalid_argument(format!(
            "{what} {} is not an absolute path",
            path.display()
        ))),
    }
}

fn path(what: &str, bytes: Vec<u8>) -> Result<PathBuf, Status> {
    let missing = || Status::invalid_argument(format!("{what} is missing"));
    optional_path(what, bytes)?.ok_or_else(missing)
}

/// The node's settings with those of a call, and what is beyond its limits.
fn settings(
    caller: &Caller,
    sent: &HashMap<String, String>,
) -> Result<(Config, Vec<String>), Status> {
    let node = Config::load().map_err(|error| Status::failed_precondition(error.to_string()))?;
    let mut warnings = Vec::new();
    let sent = sent.iter().map(|(key, text)| (&**key, &**text));
    let config = node.with_call(sent, caller.is_root(), |exceeded| {
        warnings.push(exceeded.to_string());
    });
    let config = config.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((config, warnings))
}

/// What a call that takes long answers, until the client goes away.
fn answers<A, R, F>(
    warnings: Vec<String>,
    told: impl Fn(Told) -> Option<A> + Send + Sync + 'static,
    done: impl FnOnce(R) -> A + Send + 'static,
    call: impl FnOnce(Tell) -> F + Send + 'static,
) -> Answers<A>
where
    A: Send + 'static,
    R: Send + 'static,
    F: Future<Output = Result<R, Status>> + Send,
{
    let (answers, queue) = mpsc::channel(QUEUE);
    let (tell, mut telling) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for warning in warnings {
            if let Some(answer) = told(Told::Warning(warning)) {
                // The client may be gone, which ends the call below.
                let _ = answers.send(Ok(answer)).await;
            }
        }
        let call = call(tell);
        tokio::pin!(call);
        let result = loop {
            tokio::select! {
                biased;
                // Dropping the call cancels it.
                () = answers.closed() => return,
                Some(news) = telling.recv() => if let Some(answer) = told(news) {
                    let _ = answers.send(Ok(answer)).await;
                },
                result = &mut call => break result,
            }
        };
        while let Ok(news) = telling.try_recv() {
            if let Some(answer) = told(news) {
                let _ = answers.send(Ok(answer)).await;
            }
        }
        let _ = answers.send(result.map(done)).await;
    });
    Box::pin(ReceiverStream::new(queue))
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::Denied => Code::PermissionDenied,
            Kind::State => Code::FailedPrecondition,
            Kind::Full => Code::ResourceExhausted,
            Kind::Cancelled => Code::Cancelled,
            Kind::System => Code::Internal,
        };
        if code == Code::Internal {
            log::error!("{failure}");
        }
        Self::new(code, failure.text)
    }
}

fn progress(progress: Progress) -> v1::Progress {
    let phase = match progress.phase {
        Phase::Dump => v1::Phase::Dump,
        Phase::Compress => v1::Phase::Compress,
        Phase::Sync | Phase::Done => v1::Phase::Sync,
        Phase::Unknown => v1::Phase::Unspecified,
    };
    v1::Progress {
        phase: phase.into(),
        raw_bytes: progress.raw,
        done_bytes: progress.done,
        stored_bytes: progress.stored,
    }
}

fn dumped(done: Dumped) -> v1::Dumped {
    v1::Dumped {
        path: done.path.into_os_string().into_vec(),
        image: done.image,
        raw_bytes: done.raw_bytes,
        stored_bytes: done.stored_bytes,
        frozen_us: done.frozen_us,
        total_us: done.total_us,
    }
}

#[tonic::async_trait]
impl v1::checkpoint_service_server::CheckpointService for CheckpointService {
    type DumpStream = Answers<v1::DumpResponse>;

    async fn dump(
        &self,
        request: Request<v1::DumpRequest>,
    ) -> Result<Response<Self::DumpStream>, Status> {
        use v1::dump_response::Message;
        let caller = caller(&request)?;
        let request = request.into_inner();
        let subject = Subject::of(&caller, request.subject)?;
        let (config, warnings) = settings(&caller, &request.settings)?;
        let directory = optional_path("the directory", request.directory)?;
        let needs_directory =
            || Status::invalid_argument("the request has no directory for the checkpoint");
        let options = DumpOptions {
            directory: directory.clone().unwrap_or_default(),
            name: request.name,
            leave_running: request.leave_running,
            config,
        };
        let image = request.image;
        match &subject {
            Subject::Containerd(_) if image.is_empty() => {
                return Err(Status::invalid_argument("the request names no image"));
            }
            Subject::Process(_) | Subject::Runc(_) if directory.is_none() => {
                return Err(needs_directory());
            }
            _ => {}
        }
        let jobs = Arc::clone(&self.jobs);
        let answer = |message| v1::DumpResponse {
            message: Some(message),
        };
        let told = move |told| {
            Some(answer(match told {
                Told::Progress(now) => Message::Progress(progress(now)),
                Told::Warning(text) => Message::Warning(text),
            }))
        };
        let done = move |done| answer(Message::Done(dumped(done)));
        let call = move |tell| async move {
            let _ = jobs;
            match subject {
                Subject::Job(_) | Subject::Process(_) => {
                    Err(Status::unimplemented("not in this version"))
                }
                Subject::Runc(container) => Ok(runc::dump(&container, &options, &tell).await?),
                Subject::Containerd(container) => {
                    Ok(containerd::dump(&container, &image, &options, &tell).await?)
                }
            }
        };
        Ok(Response::new(answers(warnings, told, done, call)))
    }

    type RestoreStream = Answers<v1::RestoreResponse>;

    async fn restore(
        &self,
        request: Request<v1::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        use v1::restore_request::What;
        use v1::restore_response::Message;
        let caller = caller(&request)?;
        let request = request.into_inner();
        let what = request.what;
        let what = what.ok_or_else(|| Status::invalid_argument("the request names nothing"))?;
        if !caller.is_root() && !matches!(what, What::Job(_)) {
            return Err(Status::permission_denied(
                "only root may restore containers; use sudo",
            ));
        }
        let (config, warnings) = settings(&caller, &request.settings)?;
        let options = RestoreOptions {
            tcp_close: request.tcp_close,
            leave_stopped: request.leave_stopped,
            config,
        };
        let answer = |message| v1::RestoreResponse {
            message: Some(message),
        };
        let told = move |told| match told {
            Told::Warning(text) => Some(answer(Message::Warning(text))),
            Told::Progress(_) => None,
        };
        let done = move |done| answer(Message::Done(done));
        let of_container = |pid: i32, container: String| v1::Restored {
            pid: pid.cast_unsigned(),
            container,
            ..Default::default()
        };
        let what = match what {
            What::Job(_) => return Err(Status::unimplemented("not in this version")),
            What::Runc(request) => Wants::Runc(restore_runc(request)?),
            What::Containerd(request) => {
                let container = request.container.unwrap_or_default();
                Wants::Containerd(containerd_container(container)?, request.image)
            }
        };
        let call = move |tell| async move {
            match what {
                Wants::Runc(what) => {
                    let pid = runc::restore(&what, &options, &tell).await?;
                    Ok(of_container(pid, what.container.id))
                }
                Wants::Containerd(container, image) => {
                    let pid = containerd::restore(&container, &image, &options, &tell).await?;
                    Ok(of_container(pid, container.id))
                }
            }
        };
        Ok(Response::new(answers(warnings, told, done, call)))
    }

    async fn freeze(
        &self,
        request: Request<v1::FreezeRequest>,
    ) -> Result<Response<v1::FreezeResponse>, Status> {
        let caller = caller(&request)?;
        match Subject::of(&caller, request.into_inner().subject)? {
            Subject::Job(_) | Subject::Process(_) => {
                return Err(Status::unimplemented("not in this version"));
            }
            Subject::Runc(container) => runc::freeze(&container).await?,
            Subject::Containerd(container) => containerd::freeze(&container).await?,
        }
        Ok(Response::new(v1::FreezeResponse {}))
    }

    async fn unfreeze(
        &self,
        request: Request<v1::UnfreezeRequest>,
    ) -> Result<Response<v1::UnfreezeResponse>, Status> {
        let caller = caller(&request)?;
        match Subject::of(&caller, request.into_inner().subject)? {
            Subject::Job(_) | Subject::Process(_) => {
                return Err(Status::unimplemented("not in this version"));
            }
            Subject::Runc(container) => runc::unfreeze(&container).await?,
            Subject::Containerd(container) => containerd::unfreeze(&container).await?,
        }
        Ok(Response::new(v1::UnfreezeResponse {}))
    }

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let caller = caller(&request)?;
        let checked = match Subject::of(&caller, request.into_inner().subject)? {
            Subject::Job(_) | Subject::Process(_) => {
                return Err(Status::unimplemented("not in this version"));
            }
            Subject::Runc(container) => runc::check(&container).await?,
            Subject::Containerd(container) => containerd::check(&container).await?,
        };
        Ok(Response::new(v1::CheckResponse {
            obstacles: checked.obstacles,
            warnings: checked.warnings,
            processes: checked.processes,
            memory_bytes: checked.memory,
            ..Default::default()
        }))
    }

    async fn manage(
        &self,
        _request: Request<v1::ManageRequest>,
    ) -> Result<Response<v1::ManageResponse>, Status> {
        Err(Status::unimplemented("not in this version"))
    }

    async fn list_checkpoints(
        &self,
        _request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        Err(Status::unimplemented("not in this version"))
    }

    async fn delete_checkpoint(
        &self,
        _request: Request<v1::DeleteCheckpointRequest>,
    ) -> Result<Response<v1::DeleteCheckpointResponse>, Status> {
        Err(Status::unimplemented("not in this version"))
    }
}

/// What is restored.
enum Wants {
    Runc(runc::Restore),
    Containerd(containerd::Container, String),
}

fn restore_runc(request: v1::RestoreRunc) -> Result<runc::Restore, Status> {
    let checkpoint = match optional_path("the checkpoint", request.path)? {
        Some(path) => runc::From::Path(path),
        None => runc::From::Newest(path("the checkpoint", request.directory)?),
    };
    Ok(runc::Restore {
        container: runc_container(request.id, request.root)?,
        bundle: path("the bundle", request.bundle)?,
        checkpoint,
    })
}
