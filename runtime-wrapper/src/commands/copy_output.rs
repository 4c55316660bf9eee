//! `--cedana-copy-output`: the reader of a restored container's output.
//!
//! CRIU can dump a container again if its output is a pipe, not if it is a file outside
//! of its mounts. So a pipe leads to this process, which writes to the file, and exits
//! with the last writer.
//!
//! A container with a terminal has a pseudo-terminal instead. Its master is sent in the
//! middle of the restore, and held here, since the container is hung up when it is closed:
//!
//! ```text
//! runc, or cedana-runc ── master ──► console socket, our stdin ──► output, our stdout
//! daemon ── a connection: the restore has ended ──► the same
//! ```
//!
//! Until then this process has the terminal's other end open, too: a master whose other
//! end was closed reads as ended, and CRIU opens and closes terminals as it restores them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::oci::console;

/// Copies stdin to stdout.
pub(crate) fn run() -> ExitCode {
    copy(io::stdin().lock(), &mut io::stdout().lock());
    ExitCode::SUCCESS
}

/// Holds a terminal that is sent to stdin, and copies its output to stdout.
pub(crate) fn hold_terminal() -> ExitCode {
    let held = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|listener| hold(&UnixListener::from(listener), &mut io::stdout().lock()));
    match held {
        Ok(()) => ExitCode::SUCCESS,
        // The restore has ended without a terminal.
        Err(_) => ExitCode::FAILURE,
    }
}

fn hold(listener: &UnixListener, to: &mut impl Write) -> io::Result<()> {
    let mut master = File::from(console::accept(listener)?);
    let other_end = other_end(&master)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut ready = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(master.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [ended, has_output] = ready.map(|ready| ready.any() == Some(true));
        if has_output {
            // Our end keeps it from being hung up.
            let read = master.read(&mut buffer)?;
            write(to, &buffer[..read]);
        } else if ended {
            break;
        }
    }
    drop(other_end);
    copy(master, to);
    Ok(())
}

/// Opens the other end of a pseudo-terminal (ioctl_tty(2), TIOCGPTPEER), which may have no
/// path in this mount namespace.
fn other_end(master: &File) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the ioctl takes flags by value and touches no memory.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes output. A full disk must not block the container.
fn write(to: &mut impl Write, output: &[u8]) {
    let _ = to.write_all(output).and_then(|()| to.flush());
}

fn copy(mut from: impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => write(to, &buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_is_read_even_if_nothing_can_be_written() {
        let mut written = Vec::new();
        copy(&b"output"[..], &mut written);
        assert_eq!(written, b"output");
        let mut full = Full(0);
        copy(io::repeat(1).take(200 << 10), &mut full);
        assert_eq!(full.0, 4);
    }
}
