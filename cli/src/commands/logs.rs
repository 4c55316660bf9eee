//! `cedana logs`.
//!
//! What the daemon keeps comes from the daemon. A file that `exec --log` named is read
//! here, with the rights of the user of this command: the job's owner could have put a
//! link in its place.

use std::path::Path;

use cedana_api::v1::{GetJobRequest, Job, JobRef, ReadJobLogRequest, WaitJobRequest};
use cedana_daemon::tail::Tail;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{Context, job_of, job_ref};
use crate::args::Logs;
use crate::connection::Daemon;
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Shows a job's output.
///
/// # Errors
/// There is no such job, or its file can't be read.
pub(crate) async fn run(context: &Context, logs: Logs) -> Result<()> {
    let job = job_ref(&logs.job)?;
    let daemon = context.daemon().await?;
    let request = GetJobRequest { job: Some(job) };
    let job = job_of(daemon.jobs().get_job(request).await?.into_inner().job)?;
    show(&daemon, &job, logs.follow, logs.lines).await
}

/// Shows the output of a job.
///
/// # Errors
/// It can't be read.
pub(super) async fn show(
    daemon: &Daemon,
    job: &Job,
    follow: bool,
    lines: Option<u64>,
) -> Result<()> {
    if job.log_file.is_empty() {
        from_daemon(daemon, job, follow, lines).await
    } else {
        let path = Path::new(OsStr::from_bytes(&job.log_file));
        from_file(daemon, job, path, follow, lines)
            .await
            .map_err(|error| match error {
                FileError::File(error) => Error::file("read the job's log file", path)(error),
                FileError::Other(error) => error,
            })
    }
}

/// The job's name, certain to mean the same one.
pub(super) fn exact(job: &Job) -> Option<JobRef> {
    Some(JobRef {
        id: job.id.clone(),
        uid: Some(job.uid),
    })
}

async fn from_daemon(daemon: &Daemon, job: &Job, follow: bool, lines: Option<u64>) -> Result<()> {
    let request = ReadJobLogRequest {
        job: exact(job),
        follow,
        lines,
    };
    let mut parts = daemon.jobs().read_job_log(request).await?.into_inner();
    while let Some(part) = parts.message().await? {
        to_stdout(part.data);
    }
    Ok(())
}

enum FileError {
    File(std::io::Error),
    Other(Error),
}

async fn from_file(
    daemon: &Daemon,
    job: &Job,
    path: &Path,
    follow: bool,
    lines: Option<u64>,
) -> std::result::Result<(), FileError> {
    let mut tail = Tail::open(path, lines).map_err(FileError::File)?;
    let mut jobs = daemon.jobs();
    let ended = jobs.wait_job(WaitJobRequest { job: exact(job) });
    tokio::pin!(ended);
    // Whether the program can write no more.
    let mut last = !follow;
    loop {
        let data = tail.read().map_err(FileError::File)?;
        if !data.is_empty() {
            to_stdout(data);
        } else if last {
            return Ok(());
        } else {
            tokio::select! {
                changed = tail.changed() => changed.map_err(FileError::File)?,
                answer = &mut ended => {
                    answer.map_err(|status| FileError::Other(status.into()))?;
                    last = true;
                }
            }
        }
    }
}
