//! `CheckpointService`.

use std::sync::Arc;

use cedana_api::v1;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::Answers;
use super::convert::{self, Users};
use super::subject::{Subject, Wants, optional_path, restored, settings};
use super::told::{answers, blocking, dumped, progress};
use super::transfer;
use crate::checkpoints::{
    DumpOptions, RestoreOptions, Tell, Told, containerd, estimate, freeze, process, runc,
};
use crate::jobs::{Jobs, Managed, Target};
use crate::listen::auth::caller;
use crate::worker::Owner;

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

    /// What a request is about, which must run.
    async fn target<T>(
        &self,
        request: &Request<T>,
        subject: Option<v1::Subject>,
    ) -> Result<Target, Status> {
        let caller = caller(request)?;
        Ok(match Subject::of(&caller, subject)? {
            Subject::Job(wanted) => self.jobs.target(&caller, wanted).await?,
            Subject::Process(pid) => Target::Other(Managed::Process(pid)),
            Subject::Runc(container) => Target::Other(Managed::Runc(container)),
            Subject::Containerd(container) => Target::Other(Managed::Containerd(container)),
        })
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
        let (image, shell_job) = (request.image, request.shell_job);
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
            match subject {
                Subject::Job(wanted) => {
                    let job = jobs.find(&caller, wanted).await?;
                    Ok(jobs.dump(&job, directory, &options, &tell).await?)
                }
                Subject::Process(pid) => {
                    let _turn = jobs.dump_turn(0).await;
                    // Dropped with this call, which cancels it.
                    let (_here, gone) = oneshot::channel();
                    Ok(process::dump(pid, shell_job, &options, &tell, gone).await?)
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
        let what = restored(what)?;
        let jobs = Arc::clone(&self.jobs);
        let call = move |tell: Tell| async move {
            match what {
                Wants::Job(what) => {
                    let (job, restored) = jobs.restore(&caller, what, options).await?;
                    for text in restored.warnings {
                        // The client may be gone.
                        let _ = tell.send(Told::Warning(text)).await;
                    }
                    Ok(v1::Restored {
                        pid: restored.pid.cast_unsigned(),
                        lazy: restored.lazy,
                        job: Some(Users::default().job(job)),
                        ..Default::default()
                    })
                }
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
        let subject = request.get_ref().subject.clone();
        let _turn = self.jobs.look_turn(caller(&request)?.uid()).await;
        match self.target(&request, subject).await? {
            Target::Supervised { supervisor, .. } => {
                blocking(move || freeze::freeze_job(supervisor)).await?;
            }
            Target::Other(Managed::Process(pid)) => {
                blocking(move || freeze::freeze(pid)).await?;
            }
            Target::Other(Managed::Runc(container)) => runc::freeze(&container).await?,
            Target::Other(Managed::Containerd(container)) => {
                containerd::freeze(&container).await?;
            }
        }
        Ok(Response::new(v1::FreezeResponse {}))
    }

    async fn unfreeze(
        &self,
        request: Request<v1::UnfreezeRequest>,
    ) -> Result<Response<v1::UnfreezeResponse>, Status> {
        let subject = request.get_ref().subject.clone();
        let _turn = self.jobs.look_turn(caller(&request)?.uid()).await;
        match self.target(&request, subject).await? {
            Target::Supervised { supervisor, .. } => {
                blocking(move || freeze::unfreeze_job(supervisor)).await?;
            }
            Target::Other(Managed::Process(pid)) => {
                blocking(move || freeze::unfreeze(pid)).await?;
            }
            Target::Other(Managed::Runc(container)) => runc::unfreeze(&container).await?,
            Target::Other(Managed::Containerd(container)) => {
                containerd::unfreeze(&container).await?;
            }
        }
        Ok(Response::new(v1::UnfreezeResponse {}))
    }

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.get_ref().clone();
        let directory = optional_path("the directory", asked.directory)?;
        let (config, _) = settings(&caller, &asked.settings)?;
        let _turn = self.jobs.look_turn(caller.uid()).await;
        let target = self.target(&request, asked.subject).await?;
        let is_job = matches!(target, Target::Supervised { .. });
        let checked = match target {
            Target::Supervised {
                pid,
                supervisor: _,
                output,
                terminal,
                owner,
            } => {
                let options = process::options(&config, output, terminal, false);
                blocking(move || process::check(pid, &options, &owner)).await?
            }
            Target::Other(Managed::Process(pid)) => {
                let options = process::options(&config, None, false, asked.shell_job);
                blocking(move || process::check(pid, &options, &Owner::root())).await?
            }
            Target::Other(Managed::Runc(container)) => runc::check(&container, &config).await?,
            Target::Other(Managed::Containerd(container)) => {
                containerd::check(&container, &config).await?
            }
        };
        let directory = match directory {
            // Others than root could look for paths by it that they may not see.
            Some(directory) => Some(directory).filter(|_| caller.is_root()),
            None => is_job.then(|| self.jobs.checkpoints_dir()),
        };
        Ok(Response::new(estimate::answer(
            checked,
            directory.as_deref(),
        )))
    }

    async fn manage(
        &self,
        request: Request<v1::ManageRequest>,
    ) -> Result<Response<v1::ManageResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let what = match Subject::of(&caller, request.subject)? {
            Subject::Job(_) => return Err(Status::invalid_argument("it is a job already")),
            Subject::Process(pid) => Managed::Process(pid),
            Subject::Runc(container) => Managed::Runc(container),
            Subject::Containerd(container) => Managed::Containerd(container),
        };
        let job = self.jobs.manage(&caller, what, &request.id).await?;
        Ok(Response::new(v1::ManageResponse {
            job: Some(Users::default().job(job)),
        }))
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let caller = caller(&request)?;
        let job = request.into_inner().job;
        let wanted = job.map(|job| convert::wanted(Some(job))).transpose()?;
        let found = self.jobs.checkpoints(&caller, wanted).await?;
        let mut users = Users::default();
        let checkpoints = found
            .into_iter()
            .map(|(row, present)| users.checkpoint(row, present))
            .collect();
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints }))
    }

    async fn delete_checkpoint(
        &self,
        request: Request<v1::DeleteCheckpointRequest>,
    ) -> Result<Response<v1::DeleteCheckpointResponse>, Status> {
        let caller = caller(&request)?;
        let number = request.into_inner().number;
        self.jobs.delete_checkpoint(&caller, number).await?;
        Ok(Response::new(v1::DeleteCheckpointResponse {}))
    }

    type ExportCheckpointStream = Answers<v1::ExportCheckpointResponse>;

    async fn export_checkpoint(
        &self,
        request: Request<v1::ExportCheckpointRequest>,
    ) -> Result<Response<Self::ExportCheckpointStream>, Status> {
        use v1::export_checkpoint_response::Message;
        let caller = caller(&request)?;
        let (wanted, warnings) = transfer::wanted_export(&caller, request.into_inner())?;
        let answer = |message| v1::ExportCheckpointResponse {
            message: Some(message),
        };
        let told = move |told| {
            Some(answer(match told {
                Told::Progress(now) => Message::Progress(progress(now)),
                Told::Warning(text) => Message::Warning(text),
            }))
        };
        let done = move |done| answer(Message::Done(transfer::exported(done)));
        let jobs = Arc::clone(&self.jobs);
        let call = move |tell| async move { Ok(jobs.export(&caller, wanted, &tell).await?) };
        Ok(Response::new(answers(warnings, told, done, call)))
    }

    type ImportCheckpointStream = Answers<v1::ImportCheckpointResponse>;

    async fn import_checkpoint(
        &self,
        request: Request<v1::ImportCheckpointRequest>,
    ) -> Result<Response<Self::ImportCheckpointStream>, Status> {
        use v1::import_checkpoint_response::Message;
        let caller = caller(&request)?;
        let (wanted, warnings) = transfer::wanted_import(&caller, request.into_inner())?;
        let answer = |message| v1::ImportCheckpointResponse {
            message: Some(message),
        };
        let told = move |told| {
            Some(answer(match told {
                Told::Progress(now) => Message::Progress(progress(now)),
                Told::Warning(text) => Message::Warning(text),
            }))
        };
        let done = move |(job, done)| answer(Message::Done(transfer::imported(job, done)));
        let jobs = Arc::clone(&self.jobs);
        let call = move |tell| async move { Ok(jobs.import(&caller, wanted, &tell).await?) };
        Ok(Response::new(answers(warnings, told, done, call)))
    }
}
