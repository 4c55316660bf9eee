//! Passes a restored container's terminal on to the caller.
//!
//! ```text
//! runc ── master ──► our socket ┄ after the restore has succeeded ┄► the caller's
//! ```
//!
//! In the middle of a restore, a runtime sends the master of the container's terminal
//! to the caller's socket (runc, docs/terminals.md, "detached"). The caller accepts one
//! connection. If a lazy restore then failed and was tried again, the caller would keep
//! the first attempt's terminal, which no process has open. So the lazy attempt gets a
//! socket of `cedana-runc`, and its terminal is passed on after the attempt has succeeded.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::host::procfs;

/// The name of our socket in the work directory.
const SOCKET: &str = "cedana-console.sock";

/// The longest terminal name that a runtime sends (runc's `MaxNameLen`).
const MAX_NAME: usize = 4096;

/// A console socket in place of the caller's.
pub(crate) struct Console {
    listener: UnixListener,
    file: PathBuf,
    /// Names the socket through /proc, since a socket's path must be short.
    dir: File,
}

impl Console {
    /// Listens in a directory.
    ///
    /// # Errors
    /// The socket can't be made.
    pub(crate) fn listen(work: &Path) -> io::Result<Self> {
        let file = work.join(SOCKET);
        match fs::remove_file(&file) {
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
            file,
            dir,
        })
    }

    /// The path for the runtime's `--console-socket`.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.dir)
    }

    /// Passes the terminal on to the caller's socket. Does nothing if CRIU sent no
    /// terminal, because no process has it open any more.
    ///
    /// # Errors
    /// The runtime sent no descriptor, or the caller does not accept it.
    pub(crate) fn pass_on(&self, to: &Path) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
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
        let _ = fs::remove_file(&self.file);
    }
}

fn path(dir: &File) -> PathBuf {
    procfs::descriptor(dir).join(SOCKET)
}

/// Waits for a terminal's master on a console socket.
///
/// # Errors
/// A connection without a terminal.
pub(crate) fn accept(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    receive(&stream).map(|(_, master)| master)
}

/// The terminal's name and its master.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, OwnedFd)> {
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
                // SAFETY: the message made the descriptor, so nothing else owns it. All
                // but the last are closed here.
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
        console.pass_on(&callers).expect("no terminal yet");
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
