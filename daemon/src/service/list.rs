//! The list of jobs, in parts that fit into a message, once or after each change.

use std::sync::Arc;
use std::time::Duration;

use cedana_api::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert::Users;
use super::{Answers, QUEUE};
use crate::caller::Caller;
use crate::jobs::{JobError, Jobs};

/// The jobs in one message: gRPC's usual limit is 4 MiB, and a command may have some
/// kilobytes.
const PART: usize = 500;

/// The shortest time between two lists to one client.
const PERIOD: Duration = Duration::from_millis(200);

pub(super) fn list(
    jobs: Arc<Jobs>,
    caller: Arc<Caller>,
    request: v1::ListJobsRequest,
) -> Answers<v1::ListJobsResponse> {
    let (answers, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = send(&jobs, &caller, request, &answers).await {
            // The client may be gone.
            let _ = answers.send(Err(error.into())).await;
        }
    });
    Box::pin(ReceiverStream::new(queue))
}

async fn send(
    jobs: &Arc<Jobs>,
    caller: &Caller,
    request: v1::ListJobsRequest,
    answers: &mpsc::Sender<Result<v1::ListJobsResponse, Status>>,
) -> Result<(), JobError> {
    let mut changes = jobs.changes();
    loop {
        let found = jobs.list(caller, request.all).await?;
        let mut users = Users::default();
        let mut rest = found.into_iter();
        loop {
            let part: Vec<_> = rest.by_ref().take(PART).map(|job| users.job(job)).collect();
            let last = rest.len() == 0;
            let part = v1::ListJobsResponse { jobs: part, last };
            if answers.send(Ok(part)).await.is_err() {
                return Ok(());
            }
            if last {
                break;
            }
        }
        if !request.watch {
            return Ok(());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = answers.closed() => return Ok(()),
        }
        // Many jobs may change at once; the list is sent once for all of them.
        tokio::time::sleep(PERIOD).await;
        changes.mark_unchanged();
    }
}
