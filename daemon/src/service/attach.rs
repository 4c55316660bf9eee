//! The caller at a job's terminal.
//!
//! ```text
//! caller ── input, resize ──► supervisor
//!        ◄─ output, ended ──
//! ```
//!
//! Either side may go: the caller, and the job goes on; the supervisor, and the caller
//! is told how the job ended.

use std::io;
use std::sync::Arc;

use cedana_api::v1;
use cedana_api::v1::attach_job_request::Message as Asked;
use cedana_api::v1::attach_job_response::Message as Told;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::convert::{self, Users};
use super::{Answers, QUEUE};
use crate::caller::Caller;
use crate::jobs::Jobs;
use crate::jobs::link::{Reader, Writer};
use crate::store::JobKey;
use crate::supervisor::protocol::{Frame, Request};

pub(super) async fn attach(
    jobs: Arc<Jobs>,
    caller: &Caller,
    mut asked: Streaming<v1::AttachJobRequest>,
) -> Result<Answers<v1::AttachJobResponse>, Status> {
    let first = asked.message().await?.and_then(|first| first.message);
    let Some(Asked::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message must be `start`",
        ));
    };
    let wanted = convert::wanted(start.job)?;
    let size = convert::terminal_size(start.size.unwrap_or_default());
    let job = jobs.find(caller, wanted).await?;
    let (reader, writer) = jobs.attach(&job, size).await?;
    let (answers, queue) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            shown = show(&jobs, &job.key, reader, &answers) => {
                // The client may be gone.
                let _ = answers.send(shown).await;
            }
            () = pass_on(asked, writer) => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(queue)))
}

/// Returns the last message.
async fn show(
    jobs: &Arc<Jobs>,
    key: &JobKey,
    mut reader: Reader,
    answers: &mpsc::Sender<Result<v1::AttachJobResponse, Status>>,
) -> Result<v1::AttachJobResponse, Status> {
    let answer = |message| v1::AttachJobResponse {
        message: Some(message),
    };
    while let Some(frame) = reader.next().await? {
        match frame {
            Frame::Data(output) => {
                let sent = answers.send(Ok(answer(Told::Output(output)))).await;
                sent.map_err(|_| Status::cancelled("the client is gone"))?;
            }
            // The end. The row says the same, or will.
            Frame::Message(_) => break,
            Frame::Unknown => {}
        }
    }
    let ended = jobs.wait(key).await?;
    Ok(answer(Told::Ended(Users::default().job(ended))))
}

/// Returns when the caller is gone or the supervisor takes no more.
async fn pass_on(mut asked: Streaming<v1::AttachJobRequest>, mut writer: Writer) {
    while let Ok(Some(request)) = asked.message().await {
        let sent: io::Result<()> = match request.message {
            Some(Asked::Input(data)) => writer.send_data(&data).await,
            Some(Asked::Resize(size)) => {
                let size = convert::terminal_size(size);
                writer.send(&Request::Resize(size)).await
            }
            Some(Asked::Start(_)) | None => Ok(()),
        };
        if sent.is_err() {
            // The reader learns why.
            std::future::pending::<()>().await;
        }
    }
}
