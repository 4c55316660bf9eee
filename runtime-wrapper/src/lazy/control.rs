//! What `cedana-runc restore` and its page source say to each other.
//!
//! ```text
//! restore                              source
//!    ── settings ──────────────────────►         at once
//!    ◄───────────────────── finished ───         CRIU sets the processes going
//!    ── running: pid, cgroup ──────────►         whom to kill, should it come to that
//!    ◄─────────────────────── served ───         a checkpoint finds the source
//!    ── ended ─────────────────────────►         the runtime has ended
//!    ◄─────────────── failed: reason ───         instead of any of these, or later
//!    ◄─────────────────── unfinished ───         CRIU ended without its last word
//! ```
//!
//! Each is a JSON object in one packet, so that a closed end is never taken for
//! half a message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use serde_json::Value;

/// Paths and an error's sentence.
const MAX: usize = 64 << 10;

/// One end.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(ours), theirs))
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Says something. Nobody may be there any more, who then need not know.
    pub(super) fn say(&self, message: &Value) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let _ = send(self.0.as_raw_fd(), message.to_string().as_bytes(), flags);
    }

    /// Waits for the next message; nothing at the end.
    pub(super) fn wait(&self) -> Option<Value> {
        self.receive(MsgFlags::empty()).ok().flatten()
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// There is none yet (`WouldBlock`).
    pub(super) fn look(&self) -> io::Result<Option<Value>> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    fn receive(&self, flags: MsgFlags) -> io::Result<Option<Value>> {
        let mut buffer = vec![0; MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
                Ok(length) => {
                    let message = serde_json::from_slice(&buffer[..length]);
                    return Ok(Some(message.unwrap_or_default()));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the connection for both ends, whatever copies of it are open.
    pub(super) fn hang_up(&self) {
        // It fails only if the other end has ended already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A string in a message.
pub(super) fn text<'a>(message: &'a Value, key: &str) -> Option<&'a str> {
    message.get(key)?.as_str()
}
