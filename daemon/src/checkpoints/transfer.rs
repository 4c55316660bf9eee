//! Exports and imports of checkpoints, by a worker of the daemon.

use tokio::sync::oneshot;

use super::work::work;
use super::{Failure, Kind, Tell};
use crate::worker::{Export, Import, Task, Told, Transferred};

/// What a kill of the worker means.
const KILLED: &str = "the worker was killed; no file was written";

/// Writes a checkpoint into one file. It is cancelled when `gone` is closed.
pub(crate) async fn export(
    task: Export,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
) -> Result<Transferred, Failure> {
    transferred(&Task::Export(task), tell, gone).await
}

/// Makes an archive of a file from elsewhere. It is cancelled when `gone` is closed.
pub(crate) async fn import(
    task: Import,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
) -> Result<Transferred, Failure> {
    transferred(&Task::Import(task), tell, gone).await
}

async fn transferred(
    task: &Task,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
) -> Result<Transferred, Failure> {
    match work(task, tell, gone, KILLED).await? {
        Told::Transferred(done) => Ok(done),
        _ => Err(Failure::new(Kind::System, KILLED)),
    }
}
