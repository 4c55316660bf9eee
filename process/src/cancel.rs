//! The end of a command by its caller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Ends a command from another thread. Copies are the same.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<EventFd>);

impl Cancel {
    /// For a command that goes on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Ends the command. It returns when nothing is left of it; one that can't be undone
    /// any more is completed.
    pub fn cancel(&self) {
        // It fails if the counter is full: it was cancelled already.
        let _ = self.0.write(1);
    }

    /// Whether the command is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Cancel {
    /// Readable when the command is to end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_cancels() {
        let cancel = Cancel::new().expect("eventfd");
        assert!(!cancel.is_cancelled());
        cancel.clone().cancel();
        assert!(cancel.is_cancelled() && cancel.is_cancelled());
    }
}
