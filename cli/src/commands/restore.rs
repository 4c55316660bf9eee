//! `cedana restore`.

use cedana_api::v1;
use cedana_api::v1::restore_request::What;
use cedana_api::v1::restore_response::Message;

use super::subject::{self, Settings};
use super::{Context, Outcome, attach, job_of, job_ref, terminal};
use crate::args::{JobName, Restore, RestoreOptions, RestoreRunc, RestoreWhat};
use crate::error::{Error, Result};
use crate::output::{to_stderr, to_stdout};

/// Restores something.
///
/// # Errors
/// Nothing of it runs, and the checkpoint is unchanged.
pub(crate) async fn run(context: &Context, restore: Restore) -> Result<Outcome> {
    let what = restore.what.unwrap_or(RestoreWhat::Runc(restore.runc));
    let (request, attached) = request(what)?;
    let daemon = context.daemon().await?;
    let mut answers = daemon.checkpoints().restore(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Message::Warning(text)) => to_stderr(&format!("cedana: warning: {text}\n")),
            Some(Message::Done(done)) if attached => {
                return attach::to(&daemon, job_of(done.job)?, true).await;
            }
            Some(Message::Done(done)) => {
                let name = match done.job {
                    Some(job) => format!("job {}", job.id),
                    None => format!("container {}", done.container),
                };
                to_stdout(format!("{name} runs as process {}\n", done.pid));
                return Ok(Outcome::Done);
            }
            None => {}
        }
    }
    Err(Error::Refused(
        "the daemon has ended the restore without a result; see its log".to_owned(),
    ))
}

/// Whether a restore stays connected, and exits like the program.
pub(crate) fn attaches(restore: &Restore) -> bool {
    matches!(
        restore.what,
        Some(RestoreWhat::Job { attach: true, .. } | RestoreWhat::Process { attach: true, .. })
    )
}

fn request(what: RestoreWhat) -> Result<(v1::RestoreRequest, bool)> {
    let of_job = |job: &JobName, path| -> Result<What> {
        Ok(What::Job(v1::RestoreJob {
            job: Some(job_ref(job)?),
            path,
            terminal: Some(terminal::size()),
        }))
    };
    let (what, attached, options) = match what {
        RestoreWhat::Job {
            job,
            path,
            attach,
            options,
        } => {
            let path = subject::optional(path.as_deref())?;
            (of_job(&job, path)?, attach, options)
        }
        RestoreWhat::Process {
            path,
            id,
            attach,
            options,
        } => {
            let job = JobName {
                id: id.unwrap_or_default(),
                user: None,
            };
            let path = subject::absolute(&path)?;
            (of_job(&job, path)?, attach, options)
        }
        RestoreWhat::Runc(RestoreRunc {
            bundle,
            id,
            path,
            dir,
            root,
            options,
        }) => {
            let runc = v1::RestoreRunc {
                id: id.unwrap_or_default(),
                root: subject::optional(root.as_deref())?,
                bundle: subject::optional(bundle.as_deref())?,
                path: subject::optional(path.as_deref())?,
                directory: subject::optional(dir.as_deref())?,
            };
            (What::Runc(runc), false, options)
        }
        RestoreWhat::Containerd {
            image,
            container,
            options,
        } => {
            let containerd = v1::RestoreContainerd {
                container: Some(subject::containerd_container(container)),
                image,
            };
            (What::Containerd(containerd), false, options)
        }
    };
    let RestoreOptions {
        tcp_close,
        leave_stopped,
    } = options;
    let request = v1::RestoreRequest {
        what: Some(what),
        tcp_close,
        leave_stopped,
        settings: Settings::load()?.sent,
    };
    Ok((request, attached))
}
