//! Creates a detached FUSE mount.
//!
//! It is in no mount namespace and has no mount point. This process holds a descriptor
//! of its root, and other processes reach it through that descriptor's entry in /proc.
//! The kernel removes the mount when the last descriptor is closed. When the last
//! descriptor of its device is closed, at the latest by the process's exit, the kernel
//! fails all pending reads.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use nix::libc;

/// The error if a FUSE mount is not available to this process.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Unavailable {
    /// The failed step.
    pub(super) what: &'static str,
    /// The system's error.
    pub(super) source: io::Error,
}

/// Opens the device and creates the mount. The device is non-blocking, to be polled.
pub(super) fn detached() -> Result<(File, OwnedFd), Unavailable> {
    let at = |what| move |source| Unavailable { what, source };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/fuse")
        .map_err(at("cannot open /dev/fuse"))?;
    let context = fsopen().map_err(at("cannot prepare a FUSE mount (fsopen)"))?;
    let set = |key: &CStr, value: Option<&CStr>| {
        fsconfig(&context, key, value).map_err(at("cannot configure a FUSE mount (fsconfig)"))
    };
    let number = format!("{}\0", device.as_raw_fd());
    let number = CStr::from_bytes_with_nul(number.as_bytes()).unwrap_or(c"");
    set(c"source", Some(c"cedana"))?;
    set(c"fd", Some(number))?;
    set(c"rootmode", Some(c"40700"))?;
    set(c"user_id", Some(c"0"))?;
    set(c"group_id", Some(c"0"))?;
    // CRIU opens images as the restored processes' users, too. The kernel checks the
    // files' modes.
    set(c"allow_other", None)?;
    set(c"default_permissions", None)?;
    let mount = fsmount(&context).map_err(at("cannot make a FUSE mount (fsmount)"))?;
    Ok((device, mount))
}

fn fsopen() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that lives for the whole call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), libc::FSOPEN_CLOEXEC) };
    owned(fd)
}

/// Sets a parameter, or a flag if it has no value.
fn fsconfig(context: &OwnedFd, key: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let (command, value) = match value {
        Some(value) => (libc::FSCONFIG_SET_STRING, value.as_ptr()),
        None => (libc::FSCONFIG_SET_FLAG, ptr::null()),
    };
    configure(context, command, key.as_ptr(), value)
}

fn configure(
    context: &OwnedFd,
    command: libc::fsconfig_command,
    key: *const libc::c_char,
    value: *const libc::c_char,
) -> io::Result<()> {
    // SAFETY: each pointer is null if the command does not use it, else a C string
    // that lives for the whole call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fsmount(context: &OwnedFd) -> io::Result<OwnedFd> {
    configure(context, libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsmount takes three integers and no memory.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just returned this descriptor, and it has no other owner.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
