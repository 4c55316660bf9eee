//! Receiving a terminal from the OCI runtime.
//!
//! The runtime makes the pty inside the container and sends its master over a
//! unix socket (runc, docs/terminals.md, "detached"). Paths of sockets are
//! limited to 107 bytes and a bundle's path alone can be longer, so the socket
//! lies in the bundle but is named through `/proc/PID/fd/N`: short, and gone
//! with the bundle even if we are killed.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{io::Interest, net::UnixListener};

use crate::{
    error::{Context, Error, Result, at},
    sys,
};

/// A runtime has made its terminal long before it returns; containerd's own
/// shim allows as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket on which one terminal is awaited.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Keeps the path through `/proc` alive.
    _bundle: File,
}

impl ConsoleSocket {
    /// Listens in `bundle`.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub(crate) fn listen(bundle: &Path) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let folder = File::open(bundle).context(|| at("open", bundle))?;
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}/pty-{}.sock",
            std::process::id(),
            folder.as_raw_fd(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        let listener = UnixListener::bind(&path).context(|| at("listen on", &path))?;
        Ok(Self {
            listener,
            path,
            _bundle: folder,
        })
    }

    /// What to give to the runtime.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal's master, once the runtime has sent it.
    ///
    /// # Errors
    /// When none comes.
    pub(crate) async fn receive(&self) -> Result<File> {
        tokio::time::timeout(PATIENCE, self.receive_patiently())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e| Error::Runtime(format!("failed to retrieve console master: {e}")))
    }

    async fn receive_patiently(&self) -> io::Result<File> {
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
