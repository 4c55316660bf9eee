//! Declares C functions that the standard library does not offer.
//!
//! They come from no crate, since the build script compiles this program with the
//! compiler alone.

use std::ffi::{CString, c_char, c_int, c_uint, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

pub(crate) const SIGUSR1: c_int = 10;
pub(crate) const SIGUSR2: c_int = 12;
pub(crate) const SIGTERM: c_int = 15;

const SIG_BLOCK: c_int = 0;
const LOCK_EX: c_int = 2;
const LOCK_NB: c_int = 4;

/// The signal set of glibc and of the kernel: 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
    fn flock(fd: c_int, operation: c_int) -> c_int;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn mknod(path: *const c_char, mode: c_uint, device: u64) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    #[link_name = "mount"]
    fn c_mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_char,
    ) -> c_int;
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

/// Blocks `signals` in the calling thread and in those that it starts.
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

/// Takes an exclusive flock(2), or fails at once.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    match unsafe { flock(file.as_raw_fd(), LOCK_EX | LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file in memory that exec closes.
pub(crate) fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a live C string.
    let fd = done(unsafe { memfd_create(c"program".as_ptr(), 0) })?;
    // SAFETY: the descriptor is new, and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes the calling process adopt orphans below it.
pub(crate) fn become_subreaper() -> io::Result<()> {
    const PR_SET_CHILD_SUBREAPER: c_int = 36;
    // SAFETY: the option takes a number.
    done(unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1 as c_ulong) }).map(drop)
}

/// Makes a session of the calling process.
pub(crate) fn make_session() -> io::Result<()> {
    // SAFETY: setsid takes no argument.
    done(unsafe { setsid() }).map(drop)
}

/// Creates a character device, unless it exists.
pub(crate) fn make_character_device(path: &str, major: u64, minor: u64) -> io::Result<()> {
    const S_IFCHR: c_uint = 0o020_000;
    let text = CString::new(path)?;
    // SAFETY: the path lives through the call.
    match done(unsafe { mknod(text.as_ptr(), S_IFCHR | 0o600, major << 8 | minor) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes an open /dev/net/tun the other end of a new device.
pub(crate) fn attach_tun(file: &File, name: &str) -> io::Result<()> {
    const TUNSETIFF: c_ulong = 0x4004_54ca;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    // struct ifreq: 16 bytes of name, then a union that begins with the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the buffer has the structure's size and lives through the call.
    done(unsafe { ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }).map(drop)
}

/// mount(2), of a file system or as a bind mount.
pub(crate) fn mount(
    source: &str,
    target: &str,
    kind: &str,
    bind: bool,
    data: &str,
) -> io::Result<()> {
    const MS_BIND: c_ulong = 4096;
    let texts = [source, target, kind, data].map(CString::new);
    let [source, target, kind, data] = texts;
    let (source, target, kind, data) = (source?, target?, kind?, data?);
    let flags = if bind { MS_BIND } else { 0 };
    // SAFETY: four C strings that live through the call.
    let result = unsafe {
        c_mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr(),
        )
    };
    done(result).map(drop)
}

fn done(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
