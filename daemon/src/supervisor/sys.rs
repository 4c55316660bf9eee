//! The supervisor's system calls that need `unsafe`, each with the reason that it is
//! sound.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::job::spec::{Limit, TerminalSize};

/// Calls `hook` in the child between fork and exec.
///
/// # Safety
/// `hook` calls only async-signal-safe functions, and neither allocates nor locks.
pub(super) unsafe fn before_exec(
    command: &mut Command,
    hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the caller's promise.
    unsafe { command.pre_exec(hook) };
}

/// Sets one resource limit of this process.
pub(super) fn set_limit(limit: Limit) -> nix::Result<()> {
    let value = libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: setrlimit reads one rlimit, which outlives the call.
    Errno::result(unsafe { libc::setrlimit(limit.resource, &raw const value) }).map(drop)
}

/// Takes all capabilities from this process and its future children's inheritable set
/// (capset(2)).
pub(super) fn drop_capabilities() -> nix::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// Effective, permitted and inheritable, twice 32 bits.
    type Data = [[u32; 3]; 2];
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none: Data = [[0; 3]; 2];
    // SAFETY: capset reads a header and, in version 3, two triples of u32; both outlive
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    Errno::result(result).map(drop)
}

/// Makes the terminal on stdin the controlling one of this session.
pub(super) fn take_terminal() -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer and no memory.
    Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets a terminal's size.
pub(super) fn set_terminal_size(terminal: BorrowedFd<'_>, size: TerminalSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// Sends any signal, real-time ones included, which nix has no names for, to a process,
/// or to a process group if the number is negative.
pub(super) fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill takes two integers and no memory.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The process group in a terminal's foreground.
pub(super) fn foreground_group(terminal: BorrowedFd<'_>) -> nix::Result<Pid> {
    nix::unistd::tcgetpgrp(terminal)
}

/// Gives all signals their default action, which exec does only for handled ones. The C
/// library refuses those that it uses itself, 32 and 33, which a caller may ignore, too.
pub(super) fn default_signals() {
    // The kernel's sigaction: handler, flags, restorer and mask of 64 bits each. Zeros are
    // the default action, without flags.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads `default`, whose size is that of its structure, with a
        // mask of eight bytes. Numbers that can't be changed are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8_usize,
            )
        };
    }
}

/// Joins a new session keyring: the supervisor's may be that of root's login. A kernel
/// without keyrings, or a filter that forbids them, leaves nothing to be read.
pub(super) fn leave_session_keyring() -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: keyctl takes a number and a name, which may be null.
    let joined = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match Errno::result(joined) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Drops the capabilities of the bounding set that are not in `bounding`.
pub(super) fn limit_capabilities(bounding: u64) -> nix::Result<()> {
    for capability in (0..u64::BITS).filter(|bit| bounding & 1 << bit == 0) {
        let number = libc::c_ulong::from(capability);
        // SAFETY: this prctl takes integers and no memory.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(dropped) {
            // Beyond the last capability of the kernel.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes `from` the descriptor `to`, open after exec.
pub(super) fn duplicate(from: RawFd, to: RawFd) -> nix::Result<()> {
    // SAFETY: dup2 touches no memory; only the child of a fork calls this, where no
    // other code owns the standard descriptors.
    Errno::result(unsafe { libc::dup2(from, to) }).map(drop)
}
