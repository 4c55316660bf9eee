//! Passes a restored container's terminal on to the caller.
//!
//! ```text
//! runc ── master ──► our socket ┄ once the restore has succeeded ┄► the caller's
//! ```
//!
//! A runtime sends the master of a container's terminal to the socket that the
//! caller names, in the middle of a restore (runc, docs/terminals.md,
//! "detached"). The caller accepts one connection. A lazy restore that fails
//! afterwards and is tried again would leave it with the terminal of the first
//! attempt, which no process has open. So the lazy attempt gets a socket of ours,
//! and what arrived there is passed on when the attempt has succeeded.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The name of our socket in the work directory.
const SOCKET: &str = "cedana-console.sock";

/// The longest name that a runtime sends along (runc's `MaxNameLen`).
const MAX_NAME: usize = 4096;

/// A socket in place of the caller's.
pub(crate) struct Console {
    listener: UnixListener,
    place: PathBuf,
    /// Names the socket through /proc: a socket's path must be short.
    dir: File,
}

impl Console {
    /// Listens in a directory.
    ///
    /// # Errors
    /// The socket can't be made.
    pub(crate) fn listen(work: &Path) -> io::Result<Self> {
        let place = work.join(SOCKET);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let dir = File::open(work)?;
        let listener = UnixListener::bind(path(&dir))?;
        // The runtime sends the terminal before it exits, so a later accept must not
        // wait.
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            place,
            dir,
        })
    }

    /// What to give to the runtime.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.dir)
    }

    /// Passes the terminal on to the caller's socket. CRIU hands out none if no
    /// process has it open any more; the caller then gets none, as from a runtime.
    ///
    /// # Errors
    /// What the runtime sent is no terminal, or the caller takes none.
    pub(crate) fn pass_on(&self, to: &Path) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let (name, master) = receive(&stream)?;
        let caller = UnixStream::connect(to)?;
        let descriptors = [master.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(&name)];
        sendmsg::<()>(
            caller.as_raw_fd(),
            &text,
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.place);
    }
}

fn path(dir: &File) -> PathBuf {
    let process = std::process::id();
    format!("/proc/{process}/fd/{}/{SOCKET}", dir.as_raw_fd()).into()
}

/// A terminal's name and its master.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, OwnedFd)> {
    stream.set_nonblocking(true)?;
    let mut name = vec![0; MAX_NAME];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let length = message.bytes;
    let mut found = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for descriptor in descriptors {
                // SAFETY: the message made the descriptor, and nothing else knows
                // of it. All but the last are closed here.
                found = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    name.truncate(length);
    match found {
        Some(master) => Ok((name, master)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn send(to: &Path, file: &File) {
        let stream = UnixStream::connect(to).expect("connect");
        let descriptors = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(b"/dev/pts/7")];
        sendmsg::<()>(stream.as_raw_fd(), &text, &rights, MsgFlags::empty(), None).expect("send");
    }

    #[test]
    fn a_terminal_is_passed_on_with_its_name() {
        let work = tempfile::tempdir().expect("tempdir");
        let callers = work.path().join("callers.sock");
        let caller = UnixListener::bind(&callers).expect("bind");
        let console = Console::listen(work.path()).expect("listen");
        console.pass_on(&callers).expect("there is none yet");
        let (reader, mut writer) = io::pipe().expect("pipe");
        send(&console.path(), &File::from(OwnedFd::from(reader)));
        console.pass_on(&callers).expect("passed on");
        let (stream, _) = caller.accept().expect("a connection");
        let (name, master) = receive(&stream).expect("a terminal");
        assert_eq!(name, b"/dev/pts/7");
        writer.write_all(b"x").expect("write");
        let mut byte = [0];
        File::from(master).read_exact(&mut byte).expect("read");
        assert_eq!(byte, *b"x");
        drop(console);
        assert!(!work.path().join(SOCKET).exists());
    }
}
