//! `cedana freeze`, `cedana unfreeze`, `cedana manage`.

use cedana_api::v1;
use cedana_api::v1::subject::What;
use cedana_checkpoint::host::procfs::Stat;
use cedana_contract::pid::Pid;

use super::{Context, job_of, subject};
use crate::args::{Manage, Subject};
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Stops all processes of something.
///
/// # Errors
/// There is no such thing, or it does not run.
pub(crate) async fn freeze(context: &Context, what: Subject) -> Result<()> {
    if let Subject::Process(process) = &what
        && context.is_local()
    {
        refuse_ancestor(process.pid)?;
    }
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

/// Refuses to freeze the terminal that this program was started from, which could not
/// unfreeze itself.
fn refuse_ancestor(pid: u32) -> Result<()> {
    let parent = |pid: &Pid| Stat::read(*pid)?.parent;
    let ancestors = std::iter::successors(Some(Pid::own()), parent);
    // More than the machine has processes would be a loop of numbers that are used again.
    let mut ancestors = ancestors.take(1 << 16);
    match ancestors.any(|ancestor| u32::try_from(ancestor.as_raw()) == Ok(pid)) {
        true => Err(Error::Other(format!(
            "process {pid} is an ancestor of this command, which would be frozen, too; use another terminal"
        ))),
        false => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ancestor_is_not_frozen() {
        let refused = refuse_ancestor(std::os::unix::process::parent_id());
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("ancestor"), "{text}");
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        refuse_ancestor(child.id()).expect("no ancestor");
        child.wait().expect("wait");
    }
}
