//! Output into a logging program (`binary:///path?key=value`).
//!
//! The contract is containerd's (core/runtime/v2/README.md, "Logging"): the
//! program finds the process's stdout and stderr as descriptors 3 and 4 and
//! closes 5 when it is ready; its arguments are the address's query, its whole
//! environment `CONTAINER_ID` and `CONTAINER_NAMESPACE`. It ends by itself when
//! both streams do; on delete it is asked to, and killed if it doesn't.

use std::{
    ffi::OsString,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::PathBuf,
    process::{Command, Stdio as Stream},
    time::Duration,
};

use log::warn;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use percent_encoding::percent_decode_str;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{Owner, new_pipe};
use crate::{
    error::{Context, Error, Result},
    reaper::Exit,
    sys,
};

/// How long a logger may take to write what it has; containerd's own figure.
const EXIT_TIMEOUT: Duration = Duration::from_secs(12);

/// A running logging program.
pub(super) struct Logger {
    pid: Pid,
    exit: Exit,
}

impl Logger {
    /// Starts the program at `address` (what follows `binary://`), waits until
    /// it is ready and returns the write ends of its stdout and stderr.
    ///
    /// # Errors
    /// When the program can't be run.
    pub(super) async fn start(address: &str, owner: &Owner<'_>) -> Result<(Self, [OwnedFd; 2])> {
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
        // Closes our copies of the logger's descriptors, so that it sees the
        // end of the streams and we see its readiness.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| {
            Error::Runtime(format!(
                "failed to start logging binary {}: {e}",
                path.display()
            ))
        })?;
        let mut ready = pipe::Receiver::from_owned_fd(ready).context(|| "logger pipe")?;
        // Either a byte or the end means ready.
        ready
            .read(&mut [0])
            .await
            .context(|| "wait for the logging binary")?;
        let logger = Self {
            pid: Pid::from_raw(pid),
            exit,
        };
        Ok((logger, [stdout, stderr]))
    }

    /// Asks the logger to exit, waits for it, and kills it after a timeout.
    pub(super) async fn finish(mut self) {
        // An error means that it has exited by itself.
        let asked = kill(self.pid, Signal::SIGTERM);
        if asked.is_ok()
            && tokio::time::timeout(EXIT_TIMEOUT, &mut self.exit)
                .await
                .is_err()
        {
            warn!(
                "logging binary {} did not end within {EXIT_TIMEOUT:?}: killed",
                self.pid
            );
            let _ = kill(self.pid, Signal::SIGKILL);
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

/// A path out of a URL.
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

    #[test]
    fn broken_escapes_stay() {
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
