//! The protocol of CRIU on `lazy-pages.socket` (criu/uffd.c).
//!
//! ```text
//! per task:   i32 its PID in the checkpoint, then one byte with its userfaultfd
//!             (a negative PID without a userfaultfd: a zombie has no memory)
//! at the end: u32 "RSTF", just before CRIU lets the tasks run
//! ```
//!
//! Tasks restore themselves in parallel and take turns on the one stream, so a PID and
//! its descriptor are always adjacent. EOF without "RSTF" means that the restore
//! failed.

use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};

/// `LAZY_PAGES_RESTORE_FINISHED`. Larger than any PID can be.
const FINISHED: i32 = 0x5253_5446;

/// A message of CRIU.
#[derive(Debug)]
pub(super) enum Said {
    /// A task, and the userfaultfd of its address space.
    Task { pid: i32, uffd: OwnedFd },
    /// A task without memory.
    Zombie,
    /// RSTF: CRIU is about to let the tasks run.
    Finished,
    /// EOF.
    End,
}

/// Whether the next message, if it has arrived, is RSTF.
pub(super) fn is_last_word(stream: &UnixStream) -> io::Result<bool> {
    let mut word = [0; 4];
    match recv(stream.as_raw_fd(), &mut word, MsgFlags::MSG_PEEK) {
        Ok(length) => Ok(length == 4 && i32::from_ne_bytes(word) == FINISHED),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the rest of a stream, read to EOF, ends with RSTF.
#[must_use]
pub fn ends_with_last_word(left: &[u8]) -> bool {
    left.ends_with(&FINISHED.to_ne_bytes())
}

/// Reads one message, of which the first byte has arrived.
pub(super) fn receive(stream: &mut UnixStream) -> io::Result<Said> {
    let mut word = [0; 4];
    match stream.read(&mut word)? {
        0 => return Ok(Said::End),
        4 => {}
        n => stream.read_exact(&mut word[n..])?,
    }
    match i32::from_ne_bytes(word) {
        FINISHED => Ok(Said::Finished),
        ..=-1 => Ok(Said::Zombie),
        pid => Ok(Said::Task {
            pid,
            uffd: descriptor(stream)?,
        }),
    }
}

fn descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    let mut found = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel created these descriptors with this message, and
            // nothing else owns them.
            found.extend(
                fds.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(fd), true) => Ok(fd),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "CRIU sent no userfaultfd for a process",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, sendmsg};
    use proptest::prelude::*;
    use std::io::{IoSlice, Write};

    fn send(stream: &UnixStream, bytes: &[u8], fd: Option<i32>) {
        let fds = fd.map(|fd| [fd]);
        let control: Vec<_> = fds
            .iter()
            .map(|fds| ControlMessage::ScmRights(fds))
            .collect();
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(
            stream.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::empty(),
            None,
        )
        .expect("send");
    }

    #[test]
    fn a_restore_is_understood() {
        let (criu, mut ours) = UnixStream::pair().expect("pair");
        send(&criu, &7i32.to_ne_bytes(), None);
        send(&criu, &[0], Some(criu.as_raw_fd()));
        send(&criu, &(-8i32).to_ne_bytes(), None);
        send(&criu, &0x5253_5446u32.to_ne_bytes(), None);
        drop(criu);
        assert!(matches!(
            receive(&mut ours).expect("task"),
            Said::Task { pid: 7, .. }
        ));
        assert!(matches!(receive(&mut ours).expect("zombie"), Said::Zombie));
        assert!(matches!(
            receive(&mut ours).expect("finished"),
            Said::Finished
        ));
        assert!(matches!(receive(&mut ours).expect("end"), Said::End));
    }

    proptest! {
        #[test]
        fn no_stream_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let (mut criu, mut ours) = UnixStream::pair().expect("pair");
            criu.write_all(&bytes).expect("write");
            drop(criu);
            for _ in 0..64 {
                match receive(&mut ours) {
                    Ok(Said::End) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
    }
}
