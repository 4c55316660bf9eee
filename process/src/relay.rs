//! The messages of a CRIU that runs in a PID namespace.
//!
//! CRIU opens the directories of its peer through /proc, and a peer outside of the
//! namespace has no entry there. So a process within has a socket of its own to CRIU, and
//! relays what caller and CRIU say to each other. Its standard input is the caller's
//! socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use cedana_checkpoint::criu::rpc::{Answer, MAX_MESSAGE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use nix::unistd::Pid;

use crate::criu::stop_writing;

/// The caller's message to the relay: CRIU's next write fails. No request of CRIU's
/// begins like this (a protobuf field has a number).
pub(crate) const STOP: &[u8] = &[0];

/// Runs CRIU's command and relays its messages until its end. Returns the restored root.
/// The descriptors that the caller passed are inherited as they are.
pub(crate) fn run(mut command: Command) -> io::Result<Option<Pid>> {
    let caller = io::stdin();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    command.stdin(Stdio::from(theirs));
    let mut child = command.spawn()?;
    // With it its copy of CRIU's end is closed.
    drop(command);
    let criu = cedana_contract::pid::Pid::of(&child);
    let mut root = None;
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut hears = true;
    loop {
        let mut ready = vec![PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        if hears {
            ready.push(PollFd::new(caller.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any() == Some(true));
        let (from_criu, from_caller) = (is_ready(0), is_ready(1));
        if from_caller {
            match recv(caller.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) | Err(_) => {
                    // The caller was killed: CRIU's next question has no answer.
                    hears = false;
                    shutdown(ours.as_raw_fd(), Shutdown::Both)?;
                }
                Ok(length) if &buffer[..length] == STOP => stop_writing(criu),
                Ok(length) => {
                    let _ = send(ours.as_raw_fd(), &buffer[..length], MsgFlags::MSG_NOSIGNAL);
                }
            }
        }
        if from_criu {
            match recv(ours.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let message = &buffer[..length];
                    if let Some(Answer::Done { success: true, pid }) = Answer::decode(message) {
                        root = pid.map(Pid::from_raw);
                    }
                    let _ = send(caller.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
                }
            }
        }
    }
    let status = child.wait()?;
    Ok(root.filter(|_| status.success()))
}
