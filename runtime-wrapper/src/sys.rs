//! The few calls that neither the standard library nor `nix` offers safely.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

/// Makes a child start with no signal blocked and die with this process.
///
/// Both are inherited through exec, and both must be right in the wrapped
/// runtime: we block signals to forward them, and a runtime that outlived a
/// killed wrapper could end the container after its caller was told of failure.
/// CRIU itself is not killed: it notices that the runtime is gone, undoes what
/// it did and lets the container run on.
pub(crate) fn tie_to_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes only async-signal-safe
    // system calls (prctl, sigprocmask) and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
}

/// A descriptor that the caller of this program left open for it, as one of our
/// own. Programs that we run don't get it, but for the standard ones.
pub(crate) fn take_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: used for two calls that fail on a number that is no descriptor,
    // and nothing else closes descriptors meanwhile.
    let theirs = unsafe { BorrowedFd::borrow_raw(number) };
    let ours = theirs.try_clone_to_owned()?;
    if number > libc::STDERR_FILENO {
        fcntl(theirs, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(ours)
}

/// A file descriptor that polls readable once the process has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Turns the loopback interface of this thread's network namespace on, given
/// any socket in it.
pub(crate) fn loopback_up(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let call = |code, request: &mut libc::ifreq| {
        // SAFETY: both requests take a pointer to an ifreq, which lives for the
        // whole call.
        match unsafe { libc::ioctl(socket.as_raw_fd(), code, request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    call(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS filled this member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    call(libc::SIOCSIFFLAGS, &mut request)
}
