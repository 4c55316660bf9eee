//! The connection between `cedana-runc restore` and its page source.
//!
//! Each message ([`super::messages`]) is a JSON object in one packet, so that a
//! closed end is never taken for half a message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message: a few paths and an error text.
const MAX: usize = 64 << 10;

/// One end of the connection.
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

    /// Sends a message. If the other end is closed, the message is lost.
    pub(super) fn send(&self, message: &impl Serialize) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if let Ok(text) = serde_json::to_vec(message) {
            let _ = send(self.0.as_raw_fd(), &text, flags);
        }
    }

    /// Waits for the next message; `None` if the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Option<T> {
        self.read(MsgFlags::empty()).ok().flatten()
    }

    /// The next message; `None` if the other end is closed.
    ///
    /// # Errors
    /// No message has arrived yet (`WouldBlock`).
    pub(super) fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        self.read(MsgFlags::MSG_DONTWAIT)
    }

    /// Reads a message. A packet that is no message is skipped.
    fn read<T: DeserializeOwned>(&self, flags: MsgFlags) -> io::Result<Option<T>> {
        let mut buffer = vec![0; MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, flags) {
                Ok(0) => return Ok(None),
                Ok(length) => {
                    if let Ok(message) = serde_json::from_slice(&buffer[..length]) {
                        return Ok(Some(message));
                    }
                }
                // The other end was closed with a message unread. The kernel reports that
                // once, before the messages that this end has not read yet
                // (net/unix/af_unix.c, `unix_release_sock`).
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the connection for both ends, even if copies of its descriptors are open.
    pub(super) fn shut_down(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::messages::ToRestore;

    #[test]
    fn the_last_message_of_an_end_that_read_nothing_arrives() {
        let (restore, source) = Control::pair().expect("pair");
        let source = Control::new(source);
        source.send(&ToRestore::Served);
        restore.send(&"unread");
        drop(source);
        let next = || {
            restore
                .try_receive::<ToRestore>()
                .expect("a message or the end")
        };
        assert_eq!(next(), Some(ToRestore::Served));
        assert_eq!(next(), None);
    }

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (restore, source) = Control::pair().expect("pair");
        let source = Control::new(source);
        let next = || restore.try_receive::<ToRestore>();
        let empty = next().expect_err("no message yet");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        source.send(&ToRestore::Finished);
        source.send(&"no message");
        source.send(&ToRestore::Served);
        assert_eq!(next().expect("first"), Some(ToRestore::Finished));
        assert_eq!(next().expect("second"), Some(ToRestore::Served));
        drop(source);
        assert_eq!(next().expect("end"), None);
        restore.send(&ToRestore::Served);
    }
}
