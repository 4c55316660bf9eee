//! `cedana kill`, `cedana wait`, `cedana job delete`.

use cedana_api::v1::{DeleteJobRequest, KillJobRequest, WaitJobRequest};
use nix::sys::signal::Signal;

use super::{Context, Outcome, job_of, job_ref};
use crate::args::{Delete, JobName, Kill};
use crate::error::{Error, Result};
use crate::output::status;

/// Sends a signal.
///
/// # Errors
/// There is no such job or signal, or the job does not run.
pub(crate) async fn kill(context: &Context, kill: Kill) -> Result<()> {
    let request = KillJobRequest {
        job: Some(job_ref(&kill.job)?),
        signal: signal(&kill.signal)?,
    };
    context.daemon().await?.jobs().kill_job(request).await?;
    Ok(())
}

/// Removes a job.
///
/// # Errors
/// There is no such job, or it runs.
pub(crate) async fn delete(context: &Context, delete: Delete) -> Result<()> {
    let request = DeleteJobRequest {
        job: Some(job_ref(&delete.job)?),
        force: delete.force,
    };
    context.daemon().await?.jobs().delete_job(request).await?;
    Ok(())
}

/// Waits until a job has ended.
///
/// # Errors
/// There is no such job.
pub(crate) async fn wait(context: &Context, job: &JobName) -> Result<Outcome> {
    let request = WaitJobRequest {
        job: Some(job_ref(job)?),
    };
    let daemon = context.daemon().await?;
    let job = job_of(daemon.jobs().wait_job(request).await?.into_inner().job)?;
    Ok(Outcome::Exit(status::exit_code(&job)))
}

/// A signal's number, of its name with or without SIG, or of a number.
fn signal(text: &str) -> Result<i32> {
    let unknown = || {
        Error::Other(format!(
            "--signal {text}: there is no such signal; `kill -l` lists them"
        ))
    };
    if let Ok(number) = text.parse() {
        return if number > 0 {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let name = text.to_uppercase();
    let name = format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name));
    name.parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(text).expect(text), 15);
        }
        for text in ["", "SIG", "NONE", "0", "-1"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
