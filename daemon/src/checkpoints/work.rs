//! A task of a worker of the daemon.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Failure, Kind, Tell, Told};
use crate::supervisor::protocol::{Decoder, Frame, put_message};
use crate::worker::{self, Task};

/// Has a worker do a task, and returns its last message. The task is cancelled when `gone` is
/// closed; then the result is that of a task that could not be undone any more. `killed` says
/// what a kill of the worker means.
pub(super) async fn work(
    task: &Task,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
    killed: &str,
) -> Result<worker::Told, Failure> {
    let system = |error: io::Error| Failure::new(Kind::System, format!("the worker: {error}"));
    let (mut child, socket) = worker::start(&[]).map_err(system)?;
    // Reaps it, whenever it ends: it undoes what it does when the socket is closed.
    tokio::task::spawn_blocking(move || child.wait());
    socket.set_nonblocking(true).map_err(system)?;
    let mut socket = UnixStream::from_std(socket).map_err(system)?;
    let mut frame = Vec::new();
    put_message(&mut frame, task);
    socket.write_all(&frame).await.map_err(system)?;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 4096];
    let mut listens = true;
    tokio::pin!(gone);
    loop {
        while let Some(frame) = decoder
            .take_frame()
            .map_err(|error| Failure::new(Kind::System, error.to_string()))?
        {
            use worker::Told::{Dumped, Failed, Progress, Restored, Stored, Transferred};
            match frame {
                Frame::Message(Progress(now)) => drop(tell.try_send(Told::Progress(now))),
                Frame::Message(Failed(failure)) => return Err(failure),
                Frame::Message(last @ (Dumped(_) | Restored(_) | Transferred(_))) => {
                    return Ok(last);
                }
                Frame::Message(Stored(_)) | Frame::Unknown | Frame::Data(_) => {}
            }
        }
        let read = tokio::select! {
            read = socket.read(&mut buffer) => read,
            _ = &mut gone, if listens => {
                listens = false;
                socket.shutdown().await.map_err(system)?;
                continue;
            }
        };
        match read.map_err(system)? {
            0 => return Err(Failure::new(Kind::System, killed)),
            n => decoder.push(&buffer[..n]),
        }
    }
}
