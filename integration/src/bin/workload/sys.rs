//! The few C functions the standard library does not offer.
//!
//! Declared here rather than taken from a crate: the build script compiles
//! this program with nothing but the compiler.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub(crate) const SIGUSR1: c_int = 10;
pub(crate) const SIGUSR2: c_int = 12;
pub(crate) const SIGTERM: c_int = 15;

const SIG_BLOCK: c_int = 0;
const LOCK_EX: c_int = 2;
const LOCK_NB: c_int = 4;

/// glibc's and the kernel's signal set: 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
    fn flock(fd: c_int, operation: c_int) -> c_int;
}

fn set_of(signals: &[c_int]) -> SignalSet {
    let mut set = SignalSet([0; 16]);
    // SAFETY: `set` is a live, writable signal set of the size glibc expects.
    unsafe {
        sigemptyset(&mut set);
        for &signal in signals {
            sigaddset(&mut set, signal);
        }
    }
    set
}

/// Blocks `signals` in the calling thread and those it will start.
pub(crate) fn block_signals(signals: &[c_int]) {
    // SAFETY: the set lives through the call; no old mask is asked for.
    unsafe { sigprocmask(SIG_BLOCK, &set_of(signals), std::ptr::null_mut()) };
}

/// Waits for one of `signals`, which must be blocked.
pub(crate) fn wait_signal(signals: &[c_int]) -> c_int {
    let set = set_of(signals);
    let mut signal = 0;
    loop {
        // SAFETY: both pointers are to live values of the declared types.
        if unsafe { sigwait(&set, &mut signal) } == 0 {
            return signal;
        }
    }
}

/// Takes an exclusive flock(2) or says at once why not.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { flock(file.as_raw_fd(), LOCK_EX | LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
