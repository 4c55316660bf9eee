//! `cedana freeze`, `cedana unfreeze`, `cedana manage`.

use cedana_api::v1;
use cedana_api::v1::subject::What;

use super::{Context, job_of, subject};
use crate::args::{Manage, Subject};
use crate::error::Result;
use crate::output::to_stdout;

/// Stops all processes of something.
///
/// # Errors
/// There is no such thing, or it does not run.
pub(crate) async fn freeze(context: &Context, what: Subject) -> Result<()> {
    let request = v1::FreezeRequest {
        subject: Some(subject::of(what)?),
    };
    context
        .daemon()
        .await?
        .checkpoints()
        .freeze(request)
        .await?;
    Ok(())
}

/// Lets frozen processes run.
///
/// # Errors
/// There is no such thing, or it is not frozen.
pub(crate) async fn unfreeze(context: &Context, what: Subject) -> Result<()> {
    let request = v1::UnfreezeRequest {
        subject: Some(subject::of(what)?),
    };
    let daemon = context.daemon().await?;
    daemon.checkpoints().unfreeze(request).await?;
    Ok(())
}

/// Makes a job of what runs already.
///
/// # Errors
/// There is no such thing, or the ID is taken.
pub(crate) async fn manage(context: &Context, what: Manage) -> Result<()> {
    let (subject, id) = match what {
        Manage::Process { process, job } => (subject::of_what(What::Process(process.pid)), job),
        Manage::Runc { container, job } => (subject::runc(container)?, job),
        Manage::Containerd { container, job } => (subject::containerd(container), job),
    };
    let request = v1::ManageRequest {
        subject: Some(subject),
        id: id.unwrap_or_default(),
    };
    let daemon = context.daemon().await?;
    let managed = daemon.checkpoints().manage(request).await?.into_inner();
    let job = job_of(managed.job)?;
    to_stdout(format!("job {} runs as process {}\n", job.id, job.pid));
    Ok(())
}
