//! Makes a network namespace for a container whose bundle names none.
//!
//! A namespace exists as long as a process or mount refers to it. During a restore a
//! thread of this process refers to it ([`Netns`]), so a killed process leaves no mount. The
//! path /proc/PID/task/TID/ns/net names the namespace while the thread waits, and the
//! restored container holds the namespace before the thread ends.
//!
//! An engine that sets the network up between a task's creation and its start needs
//! the namespace before the restore: Docker does so since version 28, through
//! /proc/PID/ns/net of the created task. For such a task the shim runs this program to
//! [`hold`] one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getpid, gettid};

use crate::host::procfs;
use crate::host::sys;
use cedana_contract::pid::Pid;

/// Why a namespace can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make a network namespace: {0}; it needs CAP_SYS_ADMIN")]
    Unshare(io::Error),
    #[error("cannot turn on the loopback interface of the new network namespace: {0}")]
    Loopback(io::Error),
    #[error("cannot report that the network namespace is ready: {0}")]
    Report(io::Error),
}

/// Moves this process into a new network namespace with loopback on, calls `prepare`,
/// writes `ready` to stdout, and waits until the caller closes stdin or ends. Then it
/// drops the result of `prepare`.
///
/// # Errors
/// The namespace can't be made, or stdout is closed.
pub(crate) fn hold<T>(prepare: impl FnOnce(&Path) -> T) -> Result<ExitCode, Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Unshare(errno.into()))?;
    loopback_up().map_err(Error::Loopback)?;
    let prepared = prepare(Path::new("/proc/self/ns/net"));
    let mut out = io::stdout().lock();
    out.write_all(b"ready\n")
        .and_then(|()| out.flush())
        .map_err(Error::Report)?;
    // The caller writes nothing; an error counts as the end of stdin.
    let _ = io::stdin().lock().read(&mut [0]);
    drop(prepared);
    Ok(ExitCode::SUCCESS)
}

/// A new network namespace with loopback on, held until dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Netns {
    pub(crate) fn create() -> Result<Self, Error> {
        let (made, result) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            let path = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Unshare(errno.into()))
                .and_then(|()| loopback_up().map_err(Error::Loopback))
                .map(|()| format!("/proc/{}/task/{}/ns/net", getpid(), gettid()));
            // The receiver waits for this message.
            let _ = made.send(path);
            // Returns an error when the sender is dropped.
            let _ = released.recv();
        });
        let path = result
            .recv()
            .unwrap_or_else(|_| Err(Error::Unshare(io::ErrorKind::Other.into())))?;
        Ok(Self {
            path: PathBuf::from(path),
            release: Some(release),
            holder: Some(holder),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.release.take();
        if let Some(holder) = self.holder.take() {
            // A thread that panicked has ended, too.
            let _ = holder.join();
        }
    }
}

/// Turns loopback on in the namespace of another process.
pub(crate) fn loopback_up_in(pid: Pid) -> Result<(), Error> {
    within(&procfs::of(pid).join("ns/net"), loopback_up).map_err(Error::Loopback)
}

/// The addresses of the interfaces in a network namespace.
pub(crate) fn addresses(netns: &Path) -> io::Result<Vec<IpAddr>> {
    within(netns, || {
        let found = getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        Ok(found.collect())
    })
}

/// Calls `operation` in a network namespace, on a thread of its own.
pub(crate) fn within<T: Send + 'static>(
    netns: &Path,
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = File::open(netns)?;
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        operation()
    })
    .join()
    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

fn loopback_up() -> io::Result<()> {
    // Any socket of the namespace can be used; binding to port 0 of the wildcard
    // needs no interface.
    sys::loopback_up(&UdpSocket::bind("0.0.0.0:0")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_namespace_is_new_and_ends_with_its_holder() {
        let netns = match Netns::create() {
            Ok(netns) => netns,
            Err(Error::Unshare(error)) if error.raw_os_error() == Some(1) => return,
            Err(error) => panic!("{error}"),
        };
        let ours = std::fs::metadata("/proc/self/ns/net").expect("ours").ino();
        let path = netns.path().to_owned();
        assert_ne!(std::fs::metadata(&path).expect("new").ino(), ours);
        drop(netns);
        assert!(!path.exists());
    }
}
