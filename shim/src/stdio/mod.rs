//! Connects a process's standard streams with the client.
//!
//! ```text
//!   container ──pipe──▶ copy ──▶ fifo ──▶ client          stdout, stderr: fifo
//!   container ──pipe──▶ copy ──▶ file                     file:///path
//!   container ──pipe──▶ logger                            binary:///path?args
//!   container ──pty ──▶ copy ──▶ fifo ──▶ client          terminal
//!   client ──▶ fifo ──▶ copy ──▶ pipe or pty ──▶ container  stdin
//! ```
//!
//! The container always has a pipe or a pty, never the client's fifo itself. CRIU
//! dumps a pipe whose other end is outside and connects a new one on restore, but
//! refuses a file from outside the container's mount namespace.
//!
//! The shim crate copies fifos and terminals, and holds the fifos open. So a client,
//! or containerd, may exit and connect again.

mod console;
mod file;
mod logger;
mod terminal;

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    process::Stdio as Stream,
};

use containerd_shim::asynchronous::io::{IoTasks, Pty};
use log::warn;
use nix::{
    fcntl::OFlag,
    unistd::{Gid, Uid, pipe2},
};
use tokio::net::unix::pipe;

pub(crate) use console::ConsoleSocket;
pub(crate) use containerd_shim::asynchronous::io::Stdio;

use crate::{
    error::{Context, Error, Result},
    options::CreateOptions,
    own_thread::on_new_thread,
    reaper::Reaper,
    sys,
};
use file::FileCopies;
use logger::Logger;
use terminal::TerminalOutput;

/// The identity of a process, for its logger, and the owner of its pipes.
pub(crate) struct Owner<'a> {
    /// The container or exec ID.
    pub(crate) id: &'a str,
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    /// Carries IoUid and IoGid.
    pub(crate) options: &'a CreateOptions,
    /// Reaps loggers.
    pub(crate) reaper: &'a Reaper,
}

/// The destination of output, according to the stdout address.
enum Output {
    Fifo,
    File(PathBuf),
    Logger(String),
}

impl Output {
    fn parse(stdout: &str) -> Result<Self> {
        let Some((scheme, rest)) = stdout.split_once("://") else {
            return Ok(Output::Fifo);
        };
        match scheme {
            "fifo" => Ok(Output::Fifo),
            "file" => Ok(Output::File(logger::decoded_path(rest))),
            "binary" => Ok(Output::Logger(rest.to_owned())),
            other => Err(Error::InvalidArgument(format!(
                "unknown STDIO scheme {other} in {stdout}: use a fifo's path, file:// or binary://"
            ))),
        }
    }
}

/// The pipes of a process that is about to be created.
pub(crate) struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    output: Output,
    logger: Option<Logger>,
}

impl Pipes {
    /// Creates the pipes for `stdio` and returns the process's ends, which the OCI
    /// runtime gets.
    ///
    /// # Errors
    /// An unknown scheme, a logger that does not start, no more descriptors.
    pub(crate) async fn make(stdio: &Stdio, owner: &Owner<'_>) -> Result<(Self, [Stream; 3])> {
        let output = Output::parse(&stdio.stdout)?;
        let mut logger = None;
        let mut streams = [Stream::null(), Stream::null(), Stream::null()];
        let mut pipes = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            output,
            logger: None,
        };
        if let Output::Logger(address) = &pipes.output {
            let (started, [stdout, stderr]) = Logger::start(address, owner).await?;
            logger = Some(started);
            streams[1] = stdout.into();
            streams[2] = stderr.into();
        } else {
            if !stdio.stdout.is_empty() {
                let (ours, theirs) = output_pipe(owner.options)?;
                (pipes.stdout, streams[1]) = (Some(ours), theirs);
            }
            if !stdio.stderr.is_empty() {
                let (ours, theirs) = output_pipe(owner.options)?;
                (pipes.stderr, streams[2]) = (Some(ours), theirs);
            }
            if !stdio.stdin.is_empty() {
                let (theirs, ours) = new_pipe()?;
                chown_pipe(&theirs, owner.options)?;
                let ours = pipe::Sender::from_owned_fd(ours).context(|| "stdin pipe")?;
                (pipes.stdin, streams[0]) = (Some(ours), theirs.into());
            }
        }
        pipes.logger = logger;
        Ok((pipes, streams))
    }

    /// Releases everything after a failed creation.
    pub(crate) async fn discard(self) {
        if let Some(logger) = self.logger {
            logger.finish().await;
        }
    }

    /// Starts to copy after the process was created.
    ///
    /// # Errors
    /// When a fifo or file can't be opened.
    pub(crate) async fn connect(self, stdio: &Stdio) -> Result<ProcessIo> {
        let io = ProcessIo {
            logger: self.logger,
            ..ProcessIo::default()
        };
        if let Some(stdin) = self.stdin {
            io.copies
                .copy_from_fifo(&stdio.stdin, stdin)
                .map_err(copying)?;
        }
        let outputs = [(self.stdout, &stdio.stdout), (self.stderr, &stdio.stderr)];
        match &self.output {
            Output::File(path) => {
                let [(stdout, _), (stderr, _)] = outputs;
                io.files
                    .copy(stdout.into_iter().chain(stderr), path)
                    .await?;
            }
            Output::Fifo | Output::Logger(_) => {
                for (from, path) in outputs {
                    let path = path.strip_prefix("fifo://").unwrap_or(path);
                    match from {
                        Some(from) if leads_to_file(path).await => {
                            io.files.copy([from], path.as_ref()).await?;
                        }
                        Some(from) => io.copies.copy_to_fifo(from, path).map_err(copying)?,
                        None => {}
                    }
                }
            }
        }
        Ok(io)
    }
}

/// Opens the fifos of a process that is created later than its client expects. A
/// client that opens a fifo blocks until the other end is open, and Docker then
/// blocks all its handling of that container. The fifo buffers the client's input
/// meanwhile.
pub(crate) fn hold_fifos(stdio: &Stdio) -> Vec<File> {
    [&stdio.stdin, &stdio.stdout, &stdio.stderr]
        .into_iter()
        .map(|path| path.strip_prefix("fifo://").unwrap_or(path))
        .filter(|path| path.starts_with('/') && !is_file(path))
        // A fifo that can't be opened is reported when the process needs it.
        .filter_map(|path| {
            let mut options = File::options();
            options.read(true).write(true);
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
            options.open(path).ok()
        })
        .collect()
}

/// The running copies of a process's streams.
#[derive(Default)]
pub(crate) struct ProcessIo {
    copies: IoTasks,
    files: FileCopies,
    logger: Option<Logger>,
    terminal: Option<Pty>,
}

impl ProcessIo {
    /// Connects a terminal's input and output.
    ///
    /// # Errors
    /// Those of [`Pipes::make`] and [`Pipes::connect`].
    pub(crate) async fn terminal(master: File, stdio: &Stdio, owner: &Owner<'_>) -> Result<Self> {
        let pty = Pty::new(master).map_err(copying)?;
        let mut io = Self {
            terminal: Some(pty.clone()),
            ..Self::default()
        };
        if !stdio.stdin.is_empty() {
            io.copies
                .copy_from_fifo(&stdio.stdin, pty.clone())
                .map_err(copying)?;
        }
        match Output::parse(&stdio.stdout)? {
            Output::Fifo if stdio.stdout.is_empty() => {}
            Output::Fifo if leads_to_file(&stdio.stdout).await => {
                let path = stdio.stdout.as_ref();
                io.files.copy([TerminalOutput(pty)], path).await?;
            }
            Output::Fifo => {
                let path = stdio
                    .stdout
                    .strip_prefix("fifo://")
                    .unwrap_or(&stdio.stdout);
                io.copies
                    .copy_to_fifo(TerminalOutput(pty), path)
                    .map_err(copying)?;
            }
            Output::File(path) => io.files.copy([TerminalOutput(pty)], &path).await?,
            Output::Logger(address) => {
                let (logger, [stdout, _stderr]) = Logger::start(&address, owner).await?;
                io.logger = Some(logger);
                let to = pipe::Sender::from_owned_fd(stdout).context(|| "logger pipe")?;
                io.files.copy_into(TerminalOutput(pty), to);
            }
        }
        Ok(io)
    }

    /// Sets the terminal's size. Without a terminal nothing happens, as in
    /// containerd's shim.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.terminal {
            Some(pty) => {
                sys::set_window_size(pty.as_fd(), columns, rows).context(|| "resize the terminal")
            }
            None => Ok(()),
        }
    }

    /// Closes the shim's end of stdin. The process reads EOF when the client has
    /// closed its end, too.
    pub(crate) fn close_stdin(&self) {
        self.copies.close_input();
    }

    /// Delivers the output that is left in the pipes of an exited process, for up to
    /// ten seconds as in containerd's shim, then releases everything.
    pub(crate) async fn finish(self) {
        // A terminal hangs up only when its last descriptor closes. The shim's
        // descriptor was for resizing only.
        drop(self.terminal);
        tokio::join!(self.copies.shutdown(), self.files.finish());
        if let Some(logger) = self.logger {
            logger.finish().await;
        }
    }
}

/// Whether a plain path leads to a file instead of a fifo. Each stream may have its
/// own file.
fn is_file(path: &str) -> bool {
    Path::new(path)
        .metadata()
        .is_ok_and(|m| !m.file_type().is_fifo())
}

/// Whether a plain path leads to a file. The path is the client's, so it may be on a
/// file system that does not answer.
async fn leads_to_file(path: &str) -> bool {
    let path = path.to_owned();
    let found = on_new_thread(move || Ok(is_file(&path))).await;
    found.unwrap_or(false)
}

fn copying(e: containerd_shim::Error) -> Error {
    Error::Runtime(format!("failed to start io copy: {e}"))
}

fn output_pipe(options: &CreateOptions) -> Result<(pipe::Receiver, Stream)> {
    let (ours, theirs) = new_pipe()?;
    chown_pipe(&theirs, options)?;
    let ours = pipe::Receiver::from_owned_fd(ours).context(|| "output pipe")?;
    Ok((ours, theirs.into()))
}

pub(crate) fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")
}

/// Gives a pipe to the process's user. A process that is not root can reopen its
/// streams (`/dev/stderr`) only if it owns them.
fn chown_pipe(end: &OwnedFd, options: &CreateOptions) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(options.io_uid), Gid::from_raw(options.io_gid));
    match nix::unistd::fchown(end, Some(uid), Some(gid)) {
        // The shim lacks the permission, for example in a user namespace. Root's pipe
        // still works.
        Err(nix::errno::Errno::EPERM) if uid.is_root() && gid.as_raw() == 0 => {
            warn!("pipes keep their owner: chown is not permitted");
            Ok(())
        }
        result => result.map_err(io::Error::from).context(|| "chown a pipe"),
    }
}
