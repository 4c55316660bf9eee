//! Receives a terminal from the OCI runtime.
//!
//! The runtime creates the pty inside the container and sends its master over a unix
//! socket (runc, docs/terminals.md, "detached"). A socket's path is limited to 107
//! bytes, and a bundle's path alone can be longer. So the socket lies in the bundle
//! and is addressed through `/proc/PID/fd/N`. If the shim is killed, the socket is
//! removed with the bundle.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{io::Interest, net::UnixListener};

use crate::procfs;
use crate::{
    error::{Context, Error, Result, at},
    sys,
};

/// The time limit for the terminal, the same as in containerd's own shim. A runtime
/// sends the terminal before it returns.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A socket that receives one terminal.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Keeps the path through `/proc` valid.
    _bundle: File,
}

impl ConsoleSocket {
    /// Listens in `bundle`.
    ///
    /// # Errors
    /// When the socket can't be created.
    pub(crate) fn listen(bundle: &Path) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let folder = File::open(bundle).context(|| at("open", bundle))?;
        let name = format!("pty-{}.sock", NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = procfs::descriptor(&folder).join(name);
        let listener = UnixListener::bind(&path).context(|| at("listen on", &path))?;
        Ok(Self {
            listener,
            path,
            _bundle: folder,
        })
    }

    /// The path for the runtime's `--console-socket`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the terminal's master.
    ///
    /// # Errors
    /// When the runtime sends no terminal in time.
    pub(crate) async fn receive(&self) -> Result<File> {
        tokio::time::timeout(TIMEOUT, self.receive_without_limit())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e| Error::Runtime(format!("failed to retrieve console master: {e}")))
    }

    async fn receive_without_limit(&self) -> io::Result<File> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || {
                sys::receive_descriptor(stream.as_raw_fd())
            }) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(File::from),
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
