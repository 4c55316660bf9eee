//! Sends output to a logging program (`binary:///path?key=value`).
//!
//! containerd defines the protocol (core/runtime/v2/README.md, "Logging"). The
//! program reads the process's stdout and stderr from descriptors 3 and 4, and closes
//! 5 when it is ready. The arguments are the address's query. The environment is
//! `CONTAINER_ID` and `CONTAINER_NAMESPACE` only. The program exits on EOF of both
//! streams. On delete the shim sends SIGTERM, and SIGKILL after a timeout.

use std::{
    ffi::OsString,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::PathBuf,
    process::{Command, Stdio as Stream},
    time::Duration,
};

use log::warn;
use nix::libc::{SIGKILL, SIGTERM};
use percent_encoding::percent_decode_str;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{Owner, new_pipe};
use crate::{
    error::{Context, Error, Result},
    reaper::{Exit, Reaper},
    sys,
};
use cedana_contract::pid::Pid;

/// The time limit for a logger's exit, the same as in containerd's own shim.
const EXIT_TIMEOUT: Duration = Duration::from_secs(12);

/// The time limit for a logger's start. containerd's own shim waits without one
/// (cmd/containerd-shim-runc-v2/process/io.go, `NewBinaryIO`), so a logger that never
/// gets ready blocks the start of its container for ever. That shim gives 30 seconds
/// to opening a process's other streams (process/init.go, `Create`).
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running logging program.
pub(super) struct Logger {
    pid: Pid,
    exit: Exit,
    reaper: Reaper,
}

impl Logger {
    /// Starts the program at `address` (the part after `binary://`), waits until it
    /// is ready and returns the write ends of its stdout and stderr.
    ///
    /// # Errors
    /// When the program can't be run, or is not ready in time; it is then killed.
    pub(super) async fn start(address: &str, owner: &Owner<'_>) -> Result<(Self, [OwnedFd; 2])> {
        Self::start_within(START_TIMEOUT, address, owner).await
    }

    async fn start_within(
        limit: Duration,
        address: &str,
        owner: &Owner<'_>,
    ) -> Result<(Self, [OwnedFd; 2])> {
        let (path, arguments) = parse(address);
        let (stdout_read, stdout) = new_pipe()?;
        let (stderr_read, stderr) = new_pipe()?;
        let (ready, ready_write) = new_pipe()?;
        let mut command = Command::new(&path);
        command
            .args(arguments)
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stream::null())
            .stdout(Stream::null())
            .stderr(Stream::null());
        sys::pass_from_3(&mut command, [stdout_read, stderr_read, ready_write]);
        let spawned = owner.reaper.spawn(&mut command);
        // Closes the shim's copies of the logger's descriptors, so that the logger
        // reads EOF and the shim sees that the logger is ready.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| {
            Error::Runtime(format!(
                "failed to start logging binary {}: {e}",
                path.display()
            ))
        })?;
        let mut ready = pipe::Receiver::from_owned_fd(ready).context(|| "logger pipe")?;
        // A byte or EOF means ready.
        match tokio::time::timeout(limit, ready.read(&mut [0])).await {
            Ok(read) => read.context(|| "wait for the logging binary")?,
            Err(_) => {
                let _ = owner.reaper.signal(pid, SIGKILL.cast_unsigned());
                return Err(Error::Runtime(format!(
                    "logging binary {} was not ready within {limit:?} and was killed: it must \
                     close descriptor 5 when it is ready",
                    path.display()
                )));
            }
        };
        let logger = Self {
            pid,
            exit,
            reaper: owner.reaper.clone(),
        };
        Ok((logger, [stdout, stderr]))
    }

    /// Asks the logger to exit, waits for it, and kills it after a timeout.
    pub(super) async fn finish(mut self) {
        // An error means that the logger has already exited.
        let terminated = self.reaper.signal(self.pid, SIGTERM.cast_unsigned());
        if terminated.is_ok()
            && tokio::time::timeout(EXIT_TIMEOUT, &mut self.exit)
                .await
                .is_err()
        {
            warn!(
                "logging binary {} did not exit within {EXIT_TIMEOUT:?}: killed",
                self.pid
            );
            let _ = self.reaper.signal(self.pid, SIGKILL.cast_unsigned());
        }
    }
}

/// `/path?key=value&flag` → the path and `key value flag`.
fn parse(address: &str) -> (PathBuf, Vec<OsString>) {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(decoded(&key.replace('+', " ")));
        // Go's url.Values gives every key a value, if only an empty one.
        arguments.push(decoded(&value.replace('+', " ")));
    }
    (decoded_path(path), arguments)
}

/// The decoded path of a URL.
pub(super) fn decoded_path(text: &str) -> PathBuf {
    decoded(text).into()
}

/// Decodes percent-encoding (RFC 3986, 2.1). Broken escapes stay as they are.
fn decoded(text: &str) -> OsString {
    OsString::from_vec(percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_command() {
        let (path, arguments) = parse("/usr/bin/log%20it?dir=%2Fvar+log&quiet");
        assert_eq!(path, PathBuf::from("/usr/bin/log it"));
        assert_eq!(arguments, ["dir", "/var log", "quiet", ""]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_logger_that_is_never_ready_is_killed() {
        // Nothing reaps here, so the claim stays and the exit is not collected.
        let reaper = Reaper::default();
        let options = crate::options::CreateOptions::default();
        let owner = Owner {
            id: "c",
            namespace: "default",
            options: &options,
            reaper: &reaper,
        };
        // `sleep 1000 1` sleeps for both and keeps descriptor 5 open.
        let limit = Duration::from_millis(20);
        let started = Logger::start_within(limit, "/bin/sleep?1000=1", &owner).await;
        let Err(failure) = started else {
            panic!("it is ready");
        };
        let text = failure.to_string();
        assert!(
            text.contains("/bin/sleep was not ready within 20ms"),
            "{text}"
        );
    }

    #[test]
    fn invalid_escapes_are_kept() {
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }

    proptest::proptest! {
        #[test]
        fn no_address_panics(address: String) {
            let _ = parse(&address);
        }
    }
}
