//! The gRPC services: they find the caller and the job, and translate. What happens is
//! in [`jobs`](crate::jobs).

mod attach;
mod checkpoint;
mod convert;
mod info;
mod job;
mod list;
mod log;
mod subject;
mod told;
mod transfer;

pub(crate) use checkpoint::CheckpointService;
pub(crate) use info::InfoService;
pub(crate) use job::Service;

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

/// Answers that are made one after another, until the caller cancels.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answers that wait for the network.
const QUEUE: usize = 4;
