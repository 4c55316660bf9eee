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
    os::{fd::AsRawFd, unix::net},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tokio::{io::Interest, net::UnixListener};

use crate::procfs;
use crate::{
    error::{Context, Error, Result, at},
    own_thread::on_new_thread,
    sys,
};

/// The time limit for the terminal, the same as in containerd's own shim. A runtime
/// sends the terminal before it returns.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A socket that receives one terminal.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Keeps the path through `/proc` valid; `Some` until the value is dropped.
    bundle: Option<File>,
}

impl ConsoleSocket {
    /// Listens in `bundle`.
    ///
    /// # Errors
    /// When the socket can't be created.
    pub(crate) async fn listen(bundle: &Path) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let bundle = bundle.to_owned();
        let (listener, path, folder) = on_new_thread(move || {
            let folder = File::open(&bundle).context(|| at("open", &bundle))?;
            let name = format!("pty-{}.sock", NUMBER.fetch_add(1, Ordering::Relaxed));
            let path = procfs::descriptor(&folder).join(name);
            let listener = net::UnixListener::bind(&path)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .context(|| at("listen on", &path))?;
            Ok((listener, path, folder))
        })
        .await?;
        let listener = UnixListener::from_std(listener).context(|| at("listen on", &path))?;
        Ok(Self {
            listener,
            path,
            bundle: Some(folder),
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
        let (path, bundle) = (self.path.clone(), self.bundle.take());
        let remove = move || {
            let _ = std::fs::remove_file(path);
            drop(bundle);
        };
        // A socket that can't be removed is removed with the bundle.
        let _ = thread::Builder::new().name("files".into()).spawn(remove);
    }
}
