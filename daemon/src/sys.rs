//! The daemon's system calls that need `unsafe`, each with the reason that it is sound.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use cedana_contract::pid::Pid;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The supplementary groups of a unix socket's peer, as they were when it connected
/// (unix(7), SO_PEERGROUPS).
///
/// # Errors
/// The socket's.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel's limit of a process's groups (NGROUPS_MAX).
    let mut groups = vec![0_u32; 65536];
    let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes into `groups`, and the number of
    // bytes into `length`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    groups.truncate(length as usize / size_of::<u32>());
    groups.shrink_to_fit();
    Ok(groups)
}

/// Gives the calling thread, and those that it starts, the lowest priority for processors
/// and disks. The work goes on without it.
pub fn lower_priority() {
    const LOWEST: libc::c_int = 19;
    // ioprio_set(2): the target is a thread, and the class is "idle".
    const WHO_PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    // SAFETY: both calls take integers and no memory. 0 is the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE);
    }
}

/// Marks all descriptors above 2 close-on-exec.
pub(crate) fn close_others_on_exec() -> nix::Result<()> {
    // SAFETY: close_range takes three integers and no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// `SO_PEERPIDFD` of Linux 6.5 (asm-generic/socket.h).
const SO_PEERPIDFD: libc::c_int = 77;

/// A pidfd of a unix socket's peer. Before Linux 6.5 it is that of the process which has
/// the ID now. None if the peer has exited.
///
/// # Errors
/// The socket's.
pub(crate) fn peer_process(socket: BorrowedFd<'_>, pid: i32) -> io::Result<Option<OwnedFd>> {
    let mut fd: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes into `fd`, and their number into
    // `length`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    match Errno::result(result) {
        // SAFETY: the kernel has just created this descriptor for this process.
        Ok(_) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::ENOPROTOOPT) => match Pid::try_from(pid).map(cedana_contract::pidfd::open) {
            Ok(Ok(process)) => Ok(Some(process)),
            Ok(Err(Errno::ESRCH)) | Err(_) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
        },
        Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the process of a pidfd has exited.
///
/// # Errors
/// The system's.
pub(crate) fn has_exited(process: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
}

/// Whether two processes have the same address space (kcmp(2)), as after vfork.
pub(crate) fn shares_memory(one: Pid, other: Pid) -> bool {
    const KCMP_VM: i32 = 1;
    let (one, other) = (one.as_raw(), other.as_raw());
    // SAFETY: kcmp takes numbers and touches no memory.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0_u64, 0_u64) };
    compared == 0
}

/// Takes a descriptor that the service manager has passed (sd_listen_fds(3)), and keeps
/// it from the programs that this process starts.
///
/// # Safety
/// The number was passed by the service manager, and nothing else in this process owns
/// it.
pub(crate) unsafe fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD touches no memory and fails on a number that is not open.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller promises that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers `source` for reading with the event loop.
///
/// # Errors
/// EPERM for a file that can't be polled.
pub(crate) fn register_readable<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the AsyncFd owns the source, whose descriptor therefore stays open and the
    // same as long as the registration lives.
    let registered = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
    Ok(registered?)
}

/// Limits the allocator's memory: two arenas instead of eight for each core, and freed
/// memory returned to the kernel. Called before other threads exist.
pub(crate) fn limit_allocator_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}
