//! CRIU as a child: `criu swrk 0`.
//!
//! Its standard input is a socket, over which one request goes ([`rpc`]). CRIU asks at each
//! step whether it may go on, and waits. It is in a process group of its own, so that a
//! terminal's ^C does not kill it: a killed CRIU does not undo what it changed.
//!
//! CRIU is not killed with its caller either. Its next question then has no reader, and it
//! undoes the dump. That needs SIGPIPE to be ignored. To end a dump early, its files get a
//! limit of no bytes: CRIU's next write fails, which it handles as a full disk. That needs
//! SIGXFSZ to be ignored.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use crate::criu::{criu, stop_writing};
use crate::enter::{self, Namespaces};
use crate::{init, relay};
use cedana_checkpoint::criu::rpc::{Answer, MAX_MESSAGE, Request};
use cedana_checkpoint::host::sys::pidfd_open;
use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// A running CRIU.
pub(crate) struct Swrk {
    child: Child,
    pidfd: OwnedFd,
    socket: OwnedFd,
    role: Role,
}

/// What the child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Criu,
    /// The keeper of a namespace, which stays.
    Keeper,
    /// The helper of a CRIU in a namespace.
    Helper,
}

impl Swrk {
    /// Starts CRIU, which inherits the descriptors `kept` under their numbers.
    pub(crate) fn start(program: &Path, kept: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        let mut command = criu(program);
        command.stdin(theirs);
        Self::of(command, ours, kept, Role::Criu)
    }

    /// Starts CRIU in a PID namespace of its own ([`init`]).
    pub(crate) fn start_in_namespace(program: &Path, kept: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        let command = init::command(program, theirs);
        Self::of(command, ours, kept, Role::Keeper)
    }

    /// Starts CRIU in the namespaces of processes ([`enter`]).
    pub(crate) fn start_within(
        program: &Path,
        namespaces: &Namespaces,
        kept: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        let command = enter::command(program, namespaces, theirs);
        let kept = [kept, &namespaces.descriptors()].concat();
        Self::of(command, ours, &kept, Role::Helper)
    }

    fn of(
        mut command: Command,
        ours: OwnedFd,
        kept: &[BorrowedFd<'_>],
        role: Role,
    ) -> io::Result<Self> {
        let kept: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
        let keep = move || {
            for fd in &kept {
                // SAFETY: the parent holds it open until the child has been started.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes only async-signal-safe system
        // calls (fcntl) and allocates nothing.
        unsafe { command.pre_exec(keep) };
        let child = command.spawn()?;
        let pidfd = pidfd_open(Pid::of(&child))?;
        Ok(Self {
            child,
            pidfd,
            socket: ours,
            role,
        })
    }

    /// Sends a request or the answer to a question.
    pub(crate) fn send(&self, request: &Request) -> io::Result<()> {
        let message = request.encode();
        send(self.socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// The next message, if there is one; `Ok(None)` at CRIU's end.
    ///
    /// # Errors
    /// No message has arrived yet (`WouldBlock`).
    pub(crate) fn receive(&self) -> io::Result<Option<Answer>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            return match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
                Ok(length) => match Answer::decode(&buffer[..length]) {
                    Some(answer) => Ok(Some(answer)),
                    None => continue,
                },
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Makes CRIU's next write fail, so that it undoes a dump.
    pub(crate) fn stop_writing(&self) {
        match self.role {
            Role::Criu => stop_writing(Pid::of(&self.child)),
            Role::Keeper | Role::Helper => {
                // It fails if the relay was killed, and then CRIU undoes the dump anyway.
                let _ = send(self.socket.as_raw_fd(), relay::STOP, MsgFlags::MSG_NOSIGNAL);
            }
        }
    }

    /// Kills CRIU and its children.
    pub(crate) fn kill(&self) {
        cedana_checkpoint::host::process_tree::kill(Pid::of(&self.child));
    }

    /// Waits for CRIU's end, and returns whether it succeeded. `restored` says that it
    /// restored processes: then the keeper of a namespace stays, and is returned.
    pub(crate) fn wait(
        mut self,
        restored: bool,
    ) -> io::Result<(Option<ExitStatus>, Option<Child>)> {
        match self.role == Role::Keeper && restored {
            true => Ok((None, Some(self.child))),
            false => Ok((Some(self.child.wait()?), None)),
        }
    }

    /// Polls readable when CRIU has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Polls readable when CRIU has sent a message.
    pub(crate) fn messages(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
