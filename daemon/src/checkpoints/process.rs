//! Processes that are no jobs, by a worker of the daemon.

use std::io;
use std::path::PathBuf;

use cedana_config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Checked, DumpOptions, Dumped, Failure, Kind, Tell, Told};
use crate::job::bytes::Bytes;
use crate::supervisor::protocol::{Decoder, Frame, put_message};
use crate::worker::{self, Engine, Owner, Task};

/// Dumps a process for root. It is cancelled when `gone` is closed; then the result is that
/// of a dump that could not be undone any more.
pub(crate) async fn dump(
    pid: i32,
    shell_job: bool,
    options: &DumpOptions,
    tell: &Tell,
    gone: oneshot::Receiver<()>,
) -> Result<Dumped, Failure> {
    let directory: PathBuf = options.directory.clone();
    let task = Task::Dump(worker::Dump {
        pid,
        directory: Bytes::of_path(&directory),
        owner: Owner::root(),
        user: Owner::root(),
        name: options.name.clone(),
        leave_running: options.leave_running,
        shell_job,
        output: None,
        terminal: false,
        record: None,
        engine: Engine::of(&options.config),
    });
    let system = |error: io::Error| Failure::new(Kind::System, format!("the worker: {error}"));
    let (mut child, socket) = worker::start(&[]).map_err(system)?;
    // Reaps it, whenever it ends: it undoes what it does when the socket is closed.
    tokio::task::spawn_blocking(move || child.wait());
    socket.set_nonblocking(true).map_err(system)?;
    let mut socket = UnixStream::from_std(socket).map_err(system)?;
    let mut frame = Vec::new();
    put_message(&mut frame, &task);
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
            match frame {
                Frame::Message(worker::Told::Progress(now)) => {
                    drop(tell.try_send(Told::Progress(now)));
                }
                Frame::Message(worker::Told::Dumped(dumped)) => return Ok(dumped.into()),
                Frame::Message(worker::Told::Failed(failure)) => return Err(failure),
                _ => {}
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
            0 => {
                let text = format!("the worker was killed; process {pid} runs on");
                return Err(Failure::new(Kind::System, text));
            }
            n => decoder.push(&buffer[..n]),
        }
    }
}

/// The engine's options of a dump that is only asked about.
pub(crate) fn options(
    config: &Config,
    output: Option<PathBuf>,
    terminal: bool,
    shell_job: bool,
) -> cedana_process::DumpOptions {
    cedana_process::DumpOptions {
        shell_job,
        held: worker::held(terminal),
        output,
        ..Engine::of(config).dump_options()
    }
}

/// Says what would stop a dump of a process. Nothing is frozen.
pub(crate) fn check(
    pid: i32,
    options: &cedana_process::DumpOptions,
    owner: &Owner,
) -> Result<Checked, Failure> {
    let pid = pid
        .try_into()
        .map_err(|_| Failure::new(Kind::Invalid, format!("{pid} is not a process ID")))?;
    let found = cedana_process::examine(pid, options, &owner.of_engine());
    Ok(Checked {
        obstacles: found.obstacles.iter().map(ToString::to_string).collect(),
        warnings: found.warnings,
        processes: u32::try_from(found.processes).unwrap_or(u32::MAX),
        memory: found.memory,
    })
}
