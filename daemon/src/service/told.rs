//! What `CheckpointService` answers.

use std::future::Future;
use std::os::unix::ffi::OsStringExt;

use cedana_api::v1;
use cedana_contract::progress::Phase;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Answers, QUEUE};
use crate::checkpoints::{Dumped, Failure, Kind, Progress, Tell, Told};

/// What a call that takes long answers, until the client goes away.
pub(super) fn answers<A, R, F>(
    warnings: Vec<String>,
    told: impl Fn(Told) -> Option<A> + Send + Sync + 'static,
    done: impl FnOnce(R) -> A + Send + 'static,
    call: impl FnOnce(Tell) -> F + Send + 'static,
) -> Answers<A>
where
    A: Send + 'static,
    R: Send + 'static,
    F: Future<Output = Result<R, Status>> + Send,
{
    let (answers, queue) = mpsc::channel(QUEUE);
    let (tell, mut telling) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for warning in warnings {
            if let Some(answer) = told(Told::Warning(warning)) {
                // The client may be gone, which ends the call below.
                let _ = answers.send(Ok(answer)).await;
            }
        }
        let call = call(tell);
        tokio::pin!(call);
        let result = loop {
            tokio::select! {
                biased;
                // Dropping the call cancels it.
                () = answers.closed() => return,
                Some(news) = telling.recv() => if let Some(answer) = told(news) {
                    let _ = answers.send(Ok(answer)).await;
                },
                result = &mut call => break result,
            }
        };
        while let Ok(news) = telling.try_recv() {
            if let Some(answer) = told(news) {
                let _ = answers.send(Ok(answer)).await;
            }
        }
        let _ = answers.send(result.map(done)).await;
    });
    Box::pin(ReceiverStream::new(queue))
}

/// Runs a call that waits in the kernel on a thread for such calls.
pub(super) async fn blocking<R: Send + 'static>(
    call: impl FnOnce() -> Result<R, Failure> + Send + 'static,
) -> Result<R, Status> {
    let done = tokio::task::spawn_blocking(call).await;
    let done = done.map_err(|error| Status::internal(format!("the call has ended: {error}")))?;
    Ok(done?)
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let code = match failure.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::State => Code::FailedPrecondition,
            Kind::Full => Code::ResourceExhausted,
            Kind::Cancelled => Code::Cancelled,
            Kind::System => Code::Internal,
        };
        if code == Code::Internal {
            log::error!("{failure}");
        }
        Self::new(code, failure.text)
    }
}

pub(super) fn progress(progress: Progress) -> v1::Progress {
    let phase = match progress.phase {
        Phase::Dump => v1::Phase::Dump,
        Phase::Compress => v1::Phase::Compress,
        Phase::Sync | Phase::Done => v1::Phase::Sync,
        Phase::Unknown => v1::Phase::Unspecified,
    };
    v1::Progress {
        phase: phase.into(),
        raw_bytes: progress.raw,
        done_bytes: progress.done,
        stored_bytes: progress.stored,
    }
}

pub(super) fn dumped(done: Dumped) -> v1::Dumped {
    v1::Dumped {
        path: done.path.into_os_string().into_vec(),
        image: done.image,
        raw_bytes: done.raw_bytes,
        stored_bytes: done.stored_bytes,
        frozen_us: done.frozen_us,
        total_us: done.total_us,
    }
}
