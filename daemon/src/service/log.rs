//! A job's output.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cedana_api::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, QUEUE};
use crate::jobs::Jobs;
use crate::store::JobRow;
use crate::tail::Tail;

pub(super) fn read(
    jobs: Arc<Jobs>,
    job: JobRow,
    request: v1::ReadJobLogRequest,
) -> Result<Answers<v1::ReadJobLogResponse>, Status> {
    if let Some(file) = &job.log_file {
        // Its owner could have put a link there to a file that only root may read.
        return Err(Status::failed_precondition(format!(
            "the output of job {} is in {}; read it there",
            job.key.id,
            file.as_path().display()
        )));
    }
    let path = jobs.files(&job.key).output();
    let (answers, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let sent = async {
            let tail = open(path.clone(), request.lines).await?;
            send(&jobs, &job, tail, request.follow, &answers).await
        };
        if let Err(error) = sent.await {
            let error = Status::internal(format!("cannot read {}: {error}", path.display()));
            // The client may be gone.
            let _ = answers.send(Err(error)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(queue)))
}

/// Finds the last lines off the event loop.
async fn open(path: PathBuf, lines: Option<u64>) -> io::Result<Tail> {
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        // The file's watch is registered with the event loop.
        let _entered = runtime.enter();
        Tail::open(&path, lines)
    });
    opened.await.map_err(io::Error::other)?
}

async fn send(
    jobs: &Arc<Jobs>,
    job: &JobRow,
    mut tail: Tail,
    follow: bool,
    answers: &mpsc::Sender<Result<v1::ReadJobLogResponse, Status>>,
) -> io::Result<()> {
    let ended = jobs.wait(&job.key);
    tokio::pin!(ended);
    // Whether the program can write no more.
    let mut last = !follow;
    loop {
        let data = tail.read()?;
        if !data.is_empty() {
            if answers
                .send(Ok(v1::ReadJobLogResponse { data }))
                .await
                .is_err()
            {
                return Ok(());
            }
        } else if last {
            return Ok(());
        } else {
            tokio::select! {
                changed = tail.changed() => changed?,
                // Also if it was removed.
                _ = &mut ended => last = true,
                () = answers.closed() => return Ok(()),
            }
        }
    }
}
