//! The system calls that need `unsafe`, each with the reason that it is sound.

use std::{
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

use cedana_contract::pid::Pid;
use tokio::io::{Interest, unix::AsyncFd};

/// Passes `fds` to the command as descriptors 3, 4, 5 and so on.
pub(crate) fn pass_from_3<const N: usize>(command: &mut Command, fds: [OwnedFd; N]) {
    let hook = move || {
        // Duplicates above the targets first: a source may have the number of a
        // target.
        let mut high = [0; N];
        for (fd, high) in fds.iter().zip(&mut high) {
            // SAFETY: F_DUPFD_CLOEXEC on an open descriptor touches no memory.
            *high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3 + N as i32) };
            if *high < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for (target, high) in (3..).zip(high) {
            // SAFETY: dup2 of an open descriptor touches no memory; the copy is not
            // close-on-exec, so the command inherits it.
            if unsafe { libc::dup2(high, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec and calls only
    // async-signal-safe functions; the descriptors live in the closure.
    unsafe { command.pre_exec(hook) };
}

/// Receives one message with one descriptor (unix(7), SCM_RIGHTS).
///
/// # Errors
/// The socket's error, or a message without a descriptor.
pub(crate) fn receive_descriptor(socket: RawFd) -> io::Result<OwnedFd> {
    // The message also holds the terminal's name, which is not used.
    let mut name = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(
        socket,
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let [master] = descriptors[..]
        {
            // SAFETY: the kernel has just created this descriptor for this process.
            return Ok(unsafe { OwnedFd::from_raw_fd(master) });
        }
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the runtime sent no terminal",
    ))
}

/// Closes stdout for its reader, and redirects later writes to stderr.
///
/// # Errors
/// EBADF without a stderr.
pub(crate) fn close_stdout() -> io::Result<()> {
    // SAFETY: dup2 between the standard descriptors touches no memory; nothing in
    // this process owns these descriptors.
    match unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Registers `fd` for reading with the event loop.
///
/// # Errors
/// EPERM for a file that can't be polled.
pub(crate) fn register_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which therefore stays open and
    // the same as long as the registration lives.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}

/// Sends any signal, real-time ones included, which nix has no names for. By PID, so
/// only [`Reaper::signal`](crate::reaper::Reaper::signal) calls it.
///
/// # Errors
/// Those of kill(2); EINVAL for a number that is no signal.
pub(crate) fn kill(pid: Pid, signal: u32) -> nix::Result<()> {
    let signal = i32::try_from(signal).map_err(|_| Errno::EINVAL)?;
    // SAFETY: kill touches no memory.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Sets a terminal's size.
///
/// # Errors
/// ENOTTY when `terminal` is no terminal.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts this process and its future children into a new core scheduling group (kernel
/// doc: admin-guide/hw-vuln/core-scheduling).
///
/// # Errors
/// EINVAL or ENODEV where the kernel has no core scheduling.
pub(crate) fn create_core_scheduling_group() -> io::Result<()> {
    const PR_SCHED_CORE: i32 = 62;
    const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
    const PIDTYPE_TGID: libc::c_ulong = 1;
    // SAFETY: prctl with these arguments touches no memory.
    match unsafe { libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PIDTYPE_TGID, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Limits the allocator's memory at the cost of speed, which a shim doesn't need: one
/// arena instead of one per thread, and freed memory returned to the kernel from 64
/// KiB on.
pub(crate) fn limit_allocator_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}
