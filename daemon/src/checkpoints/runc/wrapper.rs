//! `cedana-runc` as a child.
//!
//! A signal cancels it: it undoes its work and ends, and the container is as before. So
//! a call that is dropped sends SIGTERM, and another task waits for the end
//! ([`Running`]).

use std::ffi::OsStr;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use cedana_config::Config;
use cedana_contract::flags::{COPY_OUTPUT, HOLD_TERMINAL, PROGRESS_FD, WRAPPER};
use cedana_contract::progress::{Message, Phase};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::{Failure, Kind};
use crate::checkpoints::{Progress, Tell, Told, cancel};

/// The most bytes of the child's output that are kept: its messages are short lines.
const MAX_OUTPUT: u64 = 64 << 10;

/// A `cedana-runc` with these settings, without stdio.
pub(super) fn command(config: &Config) -> Command {
    let mut command = Command::new(WRAPPER);
    command
        .envs(config.variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let hook = || {
        // The daemon's would take what a restore makes for its mounts from the
        // container's users. A checkpoint sets its own.
        // SAFETY: umask touches no memory.
        unsafe { libc::umask(0o022) };
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec, and umask is async-signal-safe.
    unsafe { command.pre_exec(hook) };
    command
}

/// Starts the reader of a container's output, which writes to `file` and ends with the
/// container. Returns the writing end.
pub(super) fn copy_output(file: std::fs::File) -> Result<PipeWriter, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Kind::System,
            format!("cannot start the reader of the container's output: {error}"),
        )
    };
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    // The daemon reaps it, or init does.
    Command::new(WRAPPER)
        .arg(COPY_OUTPUT)
        .current_dir("/")
        .stdin(reader)
        .stdout(file)
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(writer)
}

/// The holder of a container's terminal. It ends with the container, or, when this is
/// dropped, if it has got no terminal.
pub(super) struct Terminal {
    path: PathBuf,
}

impl Terminal {
    /// Starts a holder that writes what the container writes to `file`. Its socket is in
    /// `dir`.
    pub(super) fn hold(dir: &Path, file: std::fs::File) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Kind::System,
                format!("cannot start the holder of the container's terminal: {error}"),
            )
        };
        let path = dir.join("console.sock");
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Command::new(WRAPPER)
            .arg(HOLD_TERMINAL)
            .current_dir("/")
            .stdin(OwnedFd::from(listener))
            .stdout(file)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { path })
    }

    /// The path for `--console-socket`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It says that the restore has ended.
        let _ = UnixStream::connect(&self.path);
    }
}

/// Adds a flag with a value, which may begin like a flag.
pub(super) fn flag(command: &mut Command, name: &str, value: impl AsRef<OsStr>) {
    let mut flag = std::ffi::OsString::from(format!("--{name}="));
    flag.push(value);
    command.arg(flag);
}

/// What happens after a child that was cancelled.
pub(super) trait Undo: Send + 'static {
    /// Undoes what was prepared for it.
    fn undo(self) -> impl Future<Output = ()> + Send;
}

impl Undo for () {
    async fn undo(self) {}
}

impl Undo for cancel::Running {
    async fn undo(self) {}
}

/// A child. Dropped before its end, it is cancelled, and what was prepared for it is
/// undone when it has ended.
pub(super) struct Running<U: Undo> {
    child: Option<Child>,
    prepared: Option<U>,
}

impl<U: Undo> Running<U> {
    pub(super) fn start(command: &mut Command, prepared: U) -> Result<Self, Failure> {
        let child = command.spawn().map_err(|error| {
            Failure::new(
                Kind::System,
                format!(
                    "cannot run {WRAPPER}: {error}; install it beside the daemon, or in its PATH"
                ),
            )
        })?;
        Ok(Self {
            child: Some(child),
            prepared: Some(prepared),
        })
    }

    /// Its stdout and stderr, if they are pipes.
    pub(super) fn output(
        &mut self,
    ) -> (
        Option<impl AsyncRead + use<U>>,
        Option<impl AsyncRead + use<U>>,
    ) {
        match &mut self.child {
            Some(child) => (child.stdout.take(), child.stderr.take()),
            None => (None, None),
        }
    }

    /// Waits for its end. Returns what was prepared for it.
    pub(super) async fn wait(mut self) -> Result<(ExitStatus, U), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Kind::System, format!("cannot wait for {WRAPPER}: {error}"))
        };
        let (Some(child), true) = (&mut self.child, self.prepared.is_some()) else {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        };
        let status = child.wait().await.map_err(failed)?;
        self.child = None;
        let prepared = self.prepared.take();
        prepared
            .map(|prepared| (status, prepared))
            .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
    }
}

impl<U: Undo> Drop for Running<U> {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // It was not reaped, so its PID is not reused.
        if let Some(pid) = child.id() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        let prepared = self.prepared.take();
        tokio::spawn(async move {
            let _ = child.wait().await;
            if let Some(prepared) = prepared {
                prepared.undo().await;
            }
        });
    }
}

/// Gives a command a pipe for its progress. The writing end is to be dropped when the
/// child runs.
pub(super) fn progress_pipe(command: &mut Command) -> std::io::Result<(Receiver, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    let reader = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let fd = writer.as_raw_fd();
    let hook = move || {
        // SAFETY: fcntl with these arguments touches no memory.
        nix::errno::Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec, and calls only async-signal-safe
    // functions; it neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
    flag(command, PROGRESS_FD, fd.to_string());
    Ok((reader, writer))
}

/// Tells the progress until the child closes its end.
pub(super) async fn tell_progress(reader: Receiver, tell: &Tell) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        if message.phase != Phase::Done {
            // A client that is slow misses some.
            let _ = tell.try_send(Told::Progress(Progress {
                phase: message.phase,
                raw: message.raw_bytes,
                done: message.done_bytes,
                stored: message.stored_bytes,
            }));
        }
    }
}

/// Reads a pipe to its end, and keeps its beginning.
pub(super) async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut text = Vec::new();
    let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut text).await;
    // A full pipe would block the child.
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// What a child has said, line by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) warnings: Vec<String>,
    /// The last error.
    pub(super) error: Option<String>,
}

impl Said {
    /// Of its stderr.
    pub(super) fn on_stderr(text: &str) -> Self {
        let mut said = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let own = line
                .strip_prefix(WRAPPER)
                .and_then(|rest| rest.strip_prefix(": "));
            match own.map(|own| (own, own.strip_prefix("warning: "))) {
                Some((_, Some(warning))) => said.warnings.push(warning.to_owned()),
                Some((error, None)) => said.error = Some(error.to_owned()),
                // The wrapped runtime's, or the library's.
                None => said.error = Some(line.trim().to_owned()),
            }
        }
        said
    }

    /// Of its log, in JSON.
    pub(super) fn in_log(text: &str) -> Self {
        let mut said = Self::default();
        for line in text.lines() {
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let message = || entry["msg"].as_str().unwrap_or_default().to_owned();
            match entry["level"].as_str() {
                Some("warning") => said.warnings.push(message()),
                Some("error" | "fatal") => said.error = Some(message()),
                _ => {}
            }
        }
        said
    }

    /// Tells the warnings. Returns the failure of a child that has failed.
    pub(super) async fn judge(self, status: ExitStatus, tell: &Tell) -> Result<(), Failure> {
        for warning in self.warnings {
            // A receiver that is gone is no error.
            let _ = tell.send(Told::Warning(warning)).await;
        }
        if status.success() {
            return Ok(());
        }
        let text = self
            .error
            .unwrap_or_else(|| format!("{WRAPPER} has failed without a reason ({status})"));
        let kind = match text.contains("make room") {
            true => Kind::Full,
            false => Kind::State,
        };
        Err(Failure::new(kind, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_warnings_are_told_apart() {
        let said = Said::on_stderr(
            "time=x level=info msg=y\ncedana-runc: warning: slow\ncedana-runc: cannot checkpoint\n",
        );
        assert_eq!(said.warnings, ["slow"]);
        assert_eq!(said.error.as_deref(), Some("cannot checkpoint"));
        let said = Said::in_log(
            "{\"level\":\"warning\",\"msg\":\"slow\"}\nnoise\n{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\"}\n{\"level\":\"info\",\"msg\":\"c\"}\n",
        );
        assert_eq!(said.warnings, ["slow"]);
        assert_eq!(said.error.as_deref(), Some("a \"b\""));
        assert_eq!(Said::on_stderr("\n"), Said::default());
    }
}
