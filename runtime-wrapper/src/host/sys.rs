//! The few system calls that neither the standard library nor `nix` offers safely, and
//! that only this program needs.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub(crate) use cedana_checkpoint::host::sys::*;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Gives a child a slave mount namespace: mounts and unmounts of this one reach it,
/// and its own mounts and unmounts stay in it.
pub(crate) fn unshare_mounts(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes only system calls (unshare,
    // mount) with arguments that exist already, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            const NONE: Option<&CStr> = None;
            unshare(CloneFlags::CLONE_NEWNS)?;
            let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(NONE, c"/", NONE, flags, NONE)?;
            Ok(())
        });
    }
}

/// Turns on the loopback interface of this thread's network namespace, through any
/// socket in it.
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
