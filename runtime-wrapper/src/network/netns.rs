//! A network namespace for a container that brings none.
//!
//! A namespace lives as long as something refers to it. During a restore that is
//! a thread of ours ([`Netns`]), so nothing is mounted, and if we are killed
//! nothing is left: the path /proc/PID/task/TID/ns/net leads to the namespace
//! while the thread waits, and by the time it ends the restored container holds
//! the namespace itself.
//!
//! An engine that sets the network up between a task's creation and its start
//! needs the namespace before there is a restore: Docker does so since version
//! 28, through /proc/PID/ns/net of the created task. For such a task the shim
//! runs this program to do nothing but [`hold`] one.

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

use crate::host::sys;

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make a network namespace: {0}; it needs CAP_SYS_ADMIN")]
    Unshare(io::Error),
    #[error("cannot turn on the loopback interface of the new network namespace: {0}")]
    Loopback(io::Error),
    #[error("cannot say that the network namespace is ready: {0}")]
    Tell(io::Error),
}

/// Moves this process into a fresh network namespace with loopback on, prepares
/// that, says so by a line on stdout, and stays until stdin ends: it does when
/// whoever started us wants it or dies. What was prepared is dropped then.
///
/// # Errors
/// The namespace can't be made, or nobody is there to be told.
pub(crate) fn hold<T>(prepare: impl FnOnce(&Path) -> T) -> Result<ExitCode, Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Unshare(errno.into()))?;
    loopback_up().map_err(Error::Loopback)?;
    let prepared = prepare(Path::new("/proc/self/ns/net"));
    let mut out = io::stdout().lock();
    out.write_all(b"ready\n")
        .and_then(|()| out.flush())
        .map_err(Error::Tell)?;
    // Nobody sends anything; an error is an end, too.
    let _ = io::stdin().lock().read(&mut [0]);
    drop(prepared);
    Ok(ExitCode::SUCCESS)
}

/// A fresh network namespace with loopback on, held until dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Netns {
    pub(crate) fn create() -> Result<Self, Error> {
        let (tell, told) = mpsc::channel();
        let (release, wait) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Unshare(errno.into()))
                .and_then(|()| loopback_up().map_err(Error::Loopback))
                .map(|()| format!("/proc/{}/task/{}/ns/net", getpid(), gettid()));
            // Nobody listens only if our creator is gone, and then so are we.
            let _ = tell.send(made);
            // Ends with an error when the sender is dropped: the signal to go.
            let _ = wait.recv();
        });
        let path = told
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
            // A holder that panicked is gone as well.
            let _ = holder.join();
        }
    }
}

/// Turns loopback on in the namespace of another process.
pub(crate) fn loopback_up_in(pid: i32) -> Result<(), Error> {
    let netns = format!("/proc/{pid}/ns/net");
    within(Path::new(&netns), loopback_up).map_err(Error::Loopback)
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

/// Does something in a network namespace, on a thread that enters it and ends.
pub(crate) fn within<T: Send + 'static>(
    netns: &Path,
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = File::open(netns)?;
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        what()
    })
    .join()
    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

fn loopback_up() -> io::Result<()> {
    // Any socket of the namespace will do; binding to port 0 of the wildcard
    // needs no interface.
    sys::loopback_up(&UdpSocket::bind("0.0.0.0:0")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn namespace_is_another_and_goes_with_its_holder() {
        let netns = match Netns::create() {
            Ok(netns) => netns,
            Err(Error::Unshare(error)) if error.raw_os_error() == Some(1) => return,
            Err(error) => panic!("{error}"),
        };
        let ours = std::fs::metadata("/proc/self/ns/net").expect("ours").ino();
        let path = netns.path().to_owned();
        assert_ne!(std::fs::metadata(&path).expect("theirs").ino(), ours);
        drop(netns);
        assert!(!path.exists());
    }
}
