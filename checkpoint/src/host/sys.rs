//! The few system calls that neither the standard library nor `nix` offers safely.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use cedana_contract::process::die_with_parent;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

use cedana_contract::pid::Pid;

/// Allows as many open files as this process may have. Children inherit the limit.
pub fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Makes a child start with no signal blocked and be killed when this process ends.
///
/// exec keeps both, and the wrapped runtime needs both: we block signals to forward
/// them, and a runtime that outlives a killed wrapper could end the container after
/// the caller saw a failure. CRIU itself is not killed: it notices that the runtime
/// has ended, undoes what it did and resumes the container.
pub fn tie_to_parent(command: &mut Command) {
    die_with_parent(command);
    // SAFETY: between fork and exec the closure makes only an async-signal-safe
    // system call (sigprocmask) and allocates nothing.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
}

/// Keeps this process out of core dumps: the memory of containers passes through it.
///
/// A limit of 0 for core files (RLIMIT_CORE) would be the wrong means. The runtime
/// inherits limits and gives them to the container, whose own core dumps are the
/// user's; and the kernel ignores the limit if a program takes the dumps (core(5),
/// `|` in core_pattern, as systemd-coredump's). A process that is not dumpable has none
/// in either case, forks inherit it (the watchdog of a page source), and exec ends it
/// (prctl(2), PR_SET_DUMPABLE), so the runtime and CRIU have their own.
///
/// The price: /proc/PID/fd of this process, through which CRIU opens its
/// configuration and the pipes of its scripts, is open to CAP_SYS_PTRACE only. CRIU has
/// it, or could not dump or restore.
pub fn forbid_core_dumps() {
    // It fails for no valid argument.
    let _ = prctl::set_dumpable(false);
}

/// Duplicates a descriptor that this program inherited, and makes the inherited one
/// close-on-exec unless it is a standard one.
pub fn take_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: used for two calls that fail on a number that is no descriptor,
    // and nothing else closes descriptors meanwhile.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let ours = inherited.try_clone_to_owned()?;
    if number > libc::STDERR_FILENO {
        fcntl(inherited, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(ours)
}

/// The size of a page, in bytes.
pub fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// The machine's free memory in bytes, without what the kernel could free: a
/// mapping of that size passes every version's overcommit heuristic.
pub fn free_memory() -> io::Result<u64> {
    Ok(sysinfo()?.ram_unused())
}

/// A file descriptor that polls readable once the process has ended.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the process of a pidfd.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal takes numbers and a pointer that may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            no_info,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks with a shared descriptor table: what one process opens or closes is open or
/// closed in the other. Returns the child's PID, and `None` in the child.
///
/// # Errors
/// No process can be made, or this process has more than one thread. The child has
/// one thread only and could wait for ever for a lock that another held.
pub fn clone_with_descriptors() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("more than one thread"));
    }
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has memory of its own, and without a
    // given stack it continues on a copy of this one, as after fork. There is no
    // other thread whose locks it could have copied. The four unused arguments are
    // null, so their order, which differs between architectures, does not matter.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Pid::try_from(pid)
            .map(Some)
            .map_err(|_| io::Error::last_os_error()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Replaces this process's `comm`, and its command line if the name fits into it: a
/// user that kills processes by their command lines (`pkill -f`) tells them apart.
pub fn rename(name: &CStr) {
    let _ = prctl::set_name(name);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some((start, length)) = arguments(&stat) else {
        return;
    };
    if length > name.count_bytes() {
        let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
        // SAFETY: the kernel put the arguments there, one after the other, in writable
        // memory of this process. It is longer than the name, and nothing holds a
        // reference to it: `std::env::args` copies on each call, and reads empty
        // strings from now on.
        unsafe {
            arguments.write_bytes(0, length);
            arguments.copy_from_nonoverlapping(name.as_ptr().cast::<u8>(), name.count_bytes());
        }
    }
}

/// The address and the length of a process's arguments, from /proc/PID/stat.
fn arguments(stat: &str) -> Option<(usize, usize)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // Fields 48 and 49 (proc(5)); what follows the name begins with field 3.
    let mut fields = rest.split_ascii_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    let length = end.checked_sub(start)?;
    (start != 0).then_some((start, length))
}

/// Closes every descriptor but the standard ones. To be called before any value of
/// this process owns one.
pub fn close_all_but_standard() -> io::Result<()> {
    // SAFETY: close_range takes three numbers, and nothing owns what it closes.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9. All names are read first, since the listing has a descriptor
    // of its own, which is closed after it.
    let listed: Vec<_> = std::fs::read_dir("/proc/self/fd")?.collect();
    for entry in listed {
        let number = entry?.file_name().to_str().and_then(|n| n.parse().ok());
        if let Some(number) = number.filter(|number: &i32| *number > libc::STDERR_FILENO) {
            // SAFETY: nothing owns it, and closing a closed one is only an error.
            let _ = unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Makes a child start in a session of its own with no signal blocked, so that it
/// outlives this process.
pub fn set_apart(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes only async-signal-safe
    // system calls (setsid, sigprocmask) and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
}
