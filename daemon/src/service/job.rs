//! `JobService`.

use std::sync::Arc;

use cedana_api::v1;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, Users};
use super::{Answers, attach, list, log};
use crate::jobs::Jobs;
use crate::listen::auth::caller;
use crate::store::{JobRow, JobState};

/// Serves jobs.
pub(crate) struct Service {
    jobs: Arc<Jobs>,
}

impl Service {
    pub(crate) fn new(jobs: Arc<Jobs>) -> Self {
        Self { jobs }
    }

    /// The job that a request names, if the caller may see it.
    async fn find<T>(
        &self,
        request: Request<T>,
        job: impl FnOnce(&mut T) -> Option<v1::JobRef>,
    ) -> Result<(JobRow, T), Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let wanted = convert::wanted(job(&mut request))?;
        Ok((self.jobs.find(&caller, wanted).await?, request))
    }
}

#[tonic::async_trait]
impl v1::job_service_server::JobService for Service {
    async fn start_job(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<v1::StartJobResponse>, Status> {
        let caller = caller(&request)?;
        let new = convert::new_job(request.into_inner());
        let job = self.jobs.start(&caller, new).await?;
        ::log::info!("job {} of user {} was started", job.key.id, job.key.uid);
        Ok(Response::new(v1::StartJobResponse {
            job: Some(Users::default().job(job)),
        }))
    }

    type ListJobsStream = Answers<v1::ListJobsResponse>;

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<Self::ListJobsStream>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        Ok(Response::new(list::list(
            Arc::clone(&self.jobs),
            caller,
            request,
        )))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let (job, _) = self.find(request, |request| request.job.take()).await?;
        let supervisor_pid = match job.state {
            JobState::Running { supervisor, .. } | JobState::Restarting { supervisor, .. } => {
                supervisor
            }
            _ => 0,
        };
        let files = self.jobs.files(&job.key);
        let spec = tokio::task::spawn_blocking(move || files.spec()).await;
        let arguments = match spec {
            Ok(Ok(spec)) => spec
                .arguments
                .into_iter()
                .map(|argument| argument.0)
                .collect(),
            // Removed meanwhile, or damaged; the rest is known.
            _ => Vec::new(),
        };
        Ok(Response::new(v1::GetJobResponse {
            job: Some(Users::default().job(job)),
            supervisor_pid,
            arguments,
        }))
    }

    async fn kill_job(
        &self,
        request: Request<v1::KillJobRequest>,
    ) -> Result<Response<v1::KillJobResponse>, Status> {
        let (job, request) = self.find(request, |request| request.job.take()).await?;
        let signal = match request.signal {
            0 => libc::SIGTERM,
            signal => signal,
        };
        self.jobs.signal(&job, signal).await?;
        Ok(Response::new(v1::KillJobResponse {}))
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let (job, request) = self.find(request, |request| request.job.take()).await?;
        self.jobs.remove(&job, request.force).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    async fn wait_job(
        &self,
        request: Request<v1::WaitJobRequest>,
    ) -> Result<Response<v1::WaitJobResponse>, Status> {
        let (job, _) = self.find(request, |request| request.job.take()).await?;
        let job = self.jobs.wait(&job.key).await?;
        Ok(Response::new(v1::WaitJobResponse {
            job: Some(Users::default().job(job)),
        }))
    }

    type AttachJobStream = Answers<v1::AttachJobResponse>;

    async fn attach_job(
        &self,
        request: Request<Streaming<v1::AttachJobRequest>>,
    ) -> Result<Response<Self::AttachJobStream>, Status> {
        let caller = caller(&request)?;
        let attached =
            attach::attach(Arc::clone(&self.jobs), &caller, request.into_inner()).await?;
        Ok(Response::new(attached))
    }

    type ReadJobLogStream = Answers<v1::ReadJobLogResponse>;

    async fn read_job_log(
        &self,
        request: Request<v1::ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let (job, request) = self.find(request, |request| request.job.take()).await?;
        Ok(Response::new(log::read(
            Arc::clone(&self.jobs),
            job,
            request,
        )?))
    }
}
