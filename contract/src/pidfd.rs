//! Descriptors of processes.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use crate::pid::Pid;

/// A descriptor of a process, which never means another process (pidfd_open(2)).
///
/// # Errors
/// ESRCH when there is no such process.
pub fn open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of a descriptor of a process (pidfd_getfd(2), since Linux 5.6), which shares its
/// open file with it.
///
/// # Errors
/// EBADF when the process has no such descriptor, EPERM when it may not be traced.
pub fn descriptor(pidfd: BorrowedFd<'_>, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three numbers.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let copy = RawFd::try_from(Errno::result(copy)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Kills the process of a pidfd.
///
/// # Errors
/// ESRCH after its exit.
pub fn kill(pidfd: BorrowedFd<'_>) -> nix::Result<()> {
    signal(pidfd, libc::SIGKILL)
}

/// Sends a signal, by its number, to the process of a pidfd.
///
/// # Errors
/// ESRCH after its exit, EINVAL for a number that is no signal.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let fd = pidfd.as_raw_fd();
    // SAFETY: pidfd_send_signal takes numbers and a pointer that may be null.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn the_process_of_a_descriptor_is_killed_once() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let process = open(Pid::of(&child)).expect("a descriptor");
        kill(process.as_fd()).expect("killed");
        assert_eq!(
            child.wait().expect("a status").signal(),
            Some(libc::SIGKILL)
        );
        assert_eq!(kill(process.as_fd()), Err(Errno::ESRCH));
    }
}
