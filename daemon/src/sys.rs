//! The daemon's system calls that need `unsafe`, each with the reason that it is sound.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
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
