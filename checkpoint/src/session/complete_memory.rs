//! Completes a container's memory before a checkpoint of it.
//!
//! CRIU would dump a missing page as zeros. So the page source is asked to finish,
//! with all processors. That works for a paused container as well: the source puts
//! memory into it without its help. (An event of a process that was frozen in the
//! middle of one has been read by then: it is in the kernel, where no freezer stops
//! it.)

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::completion_socket::{self, DONE, NO_ROOM};
use cedana_contract::pid::Pid;

/// Why memory is not complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The page source has failed.
    #[error(
        "the container was restored lazily and its memory can't be completed; see the runtime's log for why it was killed"
    )]
    Failed,
    /// The memory limit is too low.
    #[error(
        "the container forked while its memory was still being restored, and its memory limit has no room for copies of what it shared with its children; raise the limit, or take the checkpoint when they have ended"
    )]
    NoRoom,
    /// The caller gave up.
    #[error("interrupted while its memory was still being restored")]
    Interrupted,
    /// The page source can't be asked.
    #[error("cannot ask for the rest of its memory at {}: {source}", path.display())]
    Ask {
        /// Its socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Returns once the container with this init, or the restored tree with this root, has
/// all of its memory. `interrupt` is readable when the caller gives up.
///
/// # Errors
/// Its memory can't be completed, or the caller gave up.
pub fn finish(init: Pid, interrupt: &impl AsFd) -> Result<(), Error> {
    let Some(path) = completion_socket::path(init) else {
        // Init has ended; the runtime reports that.
        return Ok(());
    };
    let ask = |source| Error::Ask {
        path: path.clone(),
        source,
    };
    let mut source = match UnixStream::connect(&path) {
        Ok(source) => source,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // The file exists, and its source has ended.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(Error::Failed),
        Err(error) => return Err(ask(error)),
    };
    loop {
        let mut ready = [
            PollFd::new(source.as_fd(), PollFlags::POLLIN),
            PollFd::new(interrupt.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(ask(error.into())),
        }
        if ready[1].any().unwrap_or(false) {
            return Err(Error::Interrupted);
        }
        if ready[0].any().unwrap_or(false) {
            let mut answer = String::new();
            // An error counts as EOF without an answer.
            let _ = source.read_to_string(&mut answer);
            return match answer.as_str() {
                DONE => Ok(()),
                NO_ROOM => Err(Error::NoRoom),
                _ => Err(Error::Failed),
            };
        }
    }
}
