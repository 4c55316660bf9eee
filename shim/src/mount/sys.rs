//! The mount system calls that nix lacks, each with the reason that its `unsafe` is
//! sound.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{self, pipe2},
};

use cedana_contract::pid::Pid;

/// Includes all mounts below.
pub(super) const RECURSIVE: u32 = libc::AT_RECURSIVE as u32;
/// Makes the mount read-only.
pub(super) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Clones the mount at `path`, detached (open_tree(2), Linux 5.2).
///
/// # Errors
/// The kernel's error.
pub(super) fn clone_tree(path: &Path, recursive: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive;
    // SAFETY: the path is a C string that outlives the call.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Maps the file owners in the cloned mount `tree` by the user namespace `users`
/// (mount_setattr(2), Linux 5.12).
///
/// # Errors
/// The kernel's error.
pub(super) fn map_owners(
    tree: &OwnedFd,
    recursive: u32,
    attributes: u64,
    users: &OwnedFd,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: users.as_raw_fd() as u64,
    };
    // SAFETY: the path is a C string and the attributes have the size that is
    // given; both outlive the call, which only reads them.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as u32 | recursive,
            &raw const attr,
            size_of_val(&attr),
        )
    })?;
    Ok(())
}

/// Attaches the cloned mount `tree` to `target` (move_mount(2), Linux 5.2).
///
/// # Errors
/// The kernel's error.
pub(super) fn move_mount(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths are C strings that outlive the call.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// An idle process in a new user namespace. The process is killed when this value is
/// dropped, and exits by itself if the shim exits before.
///
/// The exit sends no SIGCHLD, and the plain `waitpid(-1)` of the shim's reaper
/// doesn't return the process: only `__WALL` does (clone(2), "the child termination
/// signal").
pub(super) struct NamespaceHolder {
    pid: Pid,
    _lifeline: OwnedFd,
}

impl NamespaceHolder {
    /// Starts the process.
    ///
    /// # Errors
    /// ENOSPC if the limit of user namespaces is 0.
    pub(super) fn start() -> io::Result<Self> {
        let (waiting, lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let none: libc::c_ulong = 0;
        // SAFETY: without CLONE_VM and with no stack this is a fork, for both
        // supported architectures with the flags as first argument and the others 0.
        // The child runs `hold`, which neither allocates nor locks.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::CLONE_NEWUSER as libc::c_ulong,
                none,
                none,
                none,
                none,
            )
        };
        match Errno::result(pid)? {
            0 => hold(waiting.as_raw_fd(), lifeline.as_raw_fd()),
            pid => Ok(Self {
                pid: Pid::try_from(pid).map_err(io::Error::other)?,
                _lifeline: lifeline,
            }),
        }
    }

    /// The PID, valid as long as this value.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

/// Waits until the other end of the pipe is closed, at the latest by the shim's exit.
fn hold(waiting: i32, lifeline: i32) -> ! {
    let mut byte = 0u8;
    // SAFETY: only async-signal-safe calls, on descriptors that the child inherits
    // and on a byte of its stack.
    unsafe {
        libc::close(lifeline);
        while libc::read(waiting, (&raw mut byte).cast(), 1) == -1
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::_exit(0)
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        // The process is not reaped yet, so the PID is not reused.
        let _ = kill(self.pid.into(), Signal::SIGKILL);
        while waitpid(unistd::Pid::from(self.pid), Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {
        }
    }
}

// The ioctls and structures of loop devices (linux/loop.h).
const LOOP_SET_FD: u32 = 0x4C00;
const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_SET_STATUS64: u32 = 0x4C04;
const LOOP_SET_DIRECT_IO: u32 = 0x4C08;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone)]
pub(super) struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
pub(super) struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

impl LoopInfo {
    /// A device that the kernel detaches after its last use. `losetup` shows `file`.
    pub(super) fn new(file: &[u8], read_only: bool) -> Self {
        let mut file_name = [0; 64];
        // The last byte stays 0.
        for (to, from) in file_name.iter_mut().take(63).zip(file) {
            *to = *from;
        }
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

impl LoopConfig {
    /// `info` with its backing file.
    pub(super) fn new(backing: &File, info: &LoopInfo, direct_io: bool) -> Self {
        let mut info = info.clone();
        if direct_io {
            info.flags |= LO_FLAGS_DIRECT_IO;
        }
        Self {
            fd: backing.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info,
            reserved: [0; 8],
        }
    }
}

/// The number of a device that is free now.
///
/// # Errors
/// The kernel's error.
pub(super) fn free_loop_device(control: &File) -> io::Result<i32> {
    // SAFETY: the request has no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Ok(Errno::result(number)?)
}

/// Attaches and describes a file in one call (Linux 5.8).
///
/// # Errors
/// EBUSY for a device in use; EINVAL or ENOTTY from an older kernel.
pub(super) fn configure_loop(device: &File, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: the kernel reads one loop_config, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const *config) };
    Errno::result(done)?;
    Ok(())
}

/// Attaches a file.
///
/// # Errors
/// EBUSY for a device in use.
pub(super) fn set_loop_file(device: &File, backing: &File) -> io::Result<()> {
    loop_number(device, LOOP_SET_FD, backing.as_raw_fd())
}

/// Describes the attached file.
///
/// # Errors
/// The kernel's error.
pub(super) fn set_loop_info(device: &File, info: &LoopInfo) -> io::Result<()> {
    // SAFETY: the kernel reads one loop_info64, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64 as _, &raw const *info) };
    Errno::result(done)?;
    Ok(())
}

/// Switches to direct I/O, past the page cache.
///
/// # Errors
/// EINVAL for a file without direct I/O.
pub(super) fn set_loop_direct_io(device: &File) -> io::Result<()> {
    loop_number(device, LOOP_SET_DIRECT_IO, 1)
}

/// Detaches the file.
///
/// # Errors
/// The kernel's error.
pub(super) fn clear_loop_file(device: &File) -> io::Result<()> {
    loop_number(device, LOOP_CLR_FD, 0)
}

fn loop_number(device: &File, request: u32, number: i32) -> io::Result<()> {
    let number = libc::c_long::from(number);
    // SAFETY: these requests take a number; no memory is touched.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), request as _, number) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs;

    #[test]
    fn structures_have_the_kernels_layout() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
        let info = LoopInfo::new(&[b'x'; 100], true);
        assert_eq!(info.file_name[62..], [b'x', 0]);
        assert_eq!(info.flags, LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY);
    }

    #[test]
    fn a_namespace_holder_leaves_no_process() {
        // Without user namespaces there is no process to leave.
        let Ok(holder) = NamespaceHolder::start() else {
            return;
        };
        let pid = holder.pid();
        // Waits like the reaper, but by PID: other tests' children must not be
        // reaped.
        assert_eq!(
            waitpid(unistd::Pid::from(pid), Some(WaitPidFlag::WNOHANG)),
            Err(Errno::ECHILD),
            "the reaper must not see it"
        );
        assert!(procfs::of(pid).join("ns/user").exists());
        drop(holder);
        assert!(!procfs::of(pid).exists());
    }
}
