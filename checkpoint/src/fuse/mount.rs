//! A FUSE mount that is mounted nowhere.
//!
//! It is in no mount namespace and has no mount point: the holder of a file
//! descriptor of its root has all of it, other processes reach it through that
//! descriptor's entry in /proc. When the last descriptor is closed it is removed;
//! when the last descriptor of its device is closed, which a process's exit
//! does, the kernel fails what is still being read.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use nix::libc;

/// What this kernel or this place does not let us do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Unavailable {
    /// The step.
    pub(super) what: &'static str,
    /// What the system said.
    pub(super) source: io::Error,
}

/// Opens the device and mounts it. Reading the device never blocks; poll it.
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
    // CRIU opens images as the restored processes' users, too; the kernel
    // checks the files' modes.
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
    // SAFETY: both pointers are null where the command has no use for them, and
    // else C strings that live for the whole call.
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
