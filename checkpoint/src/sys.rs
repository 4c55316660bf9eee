//! System calls that neither the standard library nor `nix` offers.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

/// Starts writeback of a file's dirty pages without waiting, so that a later sync
/// has less to do. A hint: errors are ignored.
pub(crate) fn start_writing(file: &File) {
    // SAFETY: sync_file_range takes a descriptor, which `file` keeps open, and
    // numbers; no memory.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// A thread, for the system calls of I/O priorities.
const WHO_PROCESS: libc::c_int = 1;

/// The lowest priority, as a nice value.
const LOWEST: libc::c_int = 19;

/// This thread's id.
pub(crate) fn thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// This thread's priority, as a nice value.
pub(crate) fn priority() -> i32 {
    // SAFETY: getpriority takes two numbers. On Linux, PRIO_PROCESS and 0 mean
    // the calling thread alone (setpriority(2), "C library/kernel differences").
    // -1 is always a priority here: the call can't fail, because the thread exists.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Gives this thread the lowest priority.
pub(crate) fn lower_priority() {
    // SAFETY: setpriority takes three numbers.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}

/// Sets a thread's priority. False if that is not allowed: raising it takes
/// CAP_SYS_NICE.
pub(crate) fn raise_priority(thread: i32, nice: i32) -> bool {
    let Ok(thread) = libc::id_t::try_from(thread) else {
        return false;
    };
    // SAFETY: setpriority takes three numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, nice) == 0 }
}

/// The priority of a thread, as a nice value; 0 if it has ended.
pub(crate) fn priority_of(thread: i32) -> i32 {
    let Ok(thread) = libc::id_t::try_from(thread) else {
        return 0;
    };
    // SAFETY: getpriority takes two numbers.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, thread) }
}

/// The I/O priority of a thread, as ioprio_get(2) has it.
pub(crate) fn io_priority(thread: i32) -> Option<i32> {
    // SAFETY: ioprio_get takes two numbers.
    let found = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, thread) };
    i32::try_from(found).ok().filter(|found| *found >= 0)
}

/// Sets the I/O priority of a thread.
pub(crate) fn set_io_priority(thread: i32, priority: i32) -> io::Result<()> {
    // SAFETY: ioprio_set takes three numbers.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, thread, priority) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this thread the lowest of the eight best-effort I/O levels. If the disk's
/// scheduler has I/O priorities, its reads wait for those of other processes.
pub(crate) fn lower_disk_priority() {
    const BEST_EFFORT_LAST: libc::c_int = 2 << 13 | 7;
    // SAFETY: ioprio_set takes three numbers; the second, 0, is this thread.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT_LAST) };
}

/// A socket of a family, a type and a protocol.
pub(crate) fn socket([family, kind, protocol]: [i32; 3]) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    match socket {
        ..0 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just created it for this process.
        socket => Ok(unsafe { OwnedFd::from_raw_fd(socket) }),
    }
}

/// An option of a socket whose value is a number; `None` if the socket has no such option.
pub(crate) fn socket_option(socket: BorrowedFd<'_>, level: i32, number: i32) -> Option<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (to, size) = ((&raw mut value).cast(), &raw mut length);
    // SAFETY: getsockopt writes at most `length` bytes to `value`.
    let found = unsafe { libc::getsockopt(socket.as_raw_fd(), level, number, to, size) };
    (found == 0).then_some(value)
}

/// Sets an option of a socket whose value is a number.
pub(crate) fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: i32,
    number: i32,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let from = (&raw const value).cast();
    // SAFETY: setsockopt reads `size` bytes from `value`.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, number, from, size) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
