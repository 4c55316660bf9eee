//! System calls of mounting that nix has no functions for, each with why its
//! `unsafe` is sound.

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
    unistd::{Pid, pipe2},
};

/// With all that is mounted below.
pub(super) const RECURSIVE: u32 = libc::AT_RECURSIVE as u32;
/// Through this mount nothing is written.
pub(super) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Clones the mount at `path`, attached nowhere (open_tree(2), Linux 5.2).
///
/// # Errors
/// The kernel's.
pub(super) fn clone_tree(path: &Path, recursive: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive;
    // SAFETY: the path is a C string that outlives the call.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lets owners appear through the cloned mount `tree` as the user namespace
/// `users` has them (mount_setattr(2), Linux 5.12).
///
/// # Errors
/// The kernel's.
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
/// The kernel's.
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

/// A process in a new user namespace that does nothing. It is killed when this
/// is dropped, and ends by itself if the shim dies before.
///
/// Its end is no SIGCHLD and not seen by a plain `waitpid(-1)`, which the
/// shim's reaper calls: only `__WALL` finds it (clone(2), "the child termination
/// signal").
pub(super) struct NamespaceHolder {
    pid: Pid,
    _lifeline: OwnedFd,
}

impl NamespaceHolder {
    /// Starts it.
    ///
    /// # Errors
    /// ENOSPC where user namespaces are limited to none.
    pub(super) fn start() -> io::Result<Self> {
        let (waiting, lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let none: libc::c_ulong = 0;
        // SAFETY: without CLONE_VM and with no stack this is a fork, for both of
        // our architectures with the flags as first argument and the others 0.
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
                pid: Pid::from_raw(pid as i32),
                _lifeline: lifeline,
            }),
        }
    }

    /// Its PID, valid as long as this.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

/// Waits for the other end of the pipe to be closed, with the shim at the latest.
fn hold(waiting: i32, lifeline: i32) -> ! {
    let mut byte = 0u8;
    // SAFETY: only async-signal-safe calls, on descriptors that this child has
    // from its parent and on a byte of its own stack.
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
        // Not reaped before, so the PID is its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        while waitpid(self.pid, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
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
    /// A device that detaches itself; `file` is what `losetup` shows.
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
    /// `info`, with the file behind it.
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
/// The kernel's.
pub(super) fn free_loop_device(control: &File) -> io::Result<i32> {
    // SAFETY: the request has no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Ok(Errno::result(number)?)
}

/// Attaches and describes in one (Linux 5.8).
///
/// # Errors
/// EBUSY for a device that is taken; EINVAL or ENOTTY from an older kernel.
pub(super) fn configure_loop(device: &File, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: the kernel reads one loop_config, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const *config) };
    Errno::result(done)?;
    Ok(())
}

/// Attaches a file.
///
/// # Errors
/// EBUSY for a device that is taken.
pub(super) fn set_loop_file(device: &File, backing: &File) -> io::Result<()> {
    loop_number(device, LOOP_SET_FD, backing.as_raw_fd())
}

/// Describes what is attached.
///
/// # Errors
/// The kernel's.
pub(super) fn set_loop_info(device: &File, info: &LoopInfo) -> io::Result<()> {
    // SAFETY: the kernel reads one loop_info64, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64 as _, &raw const *info) };
    Errno::result(done)?;
    Ok(())
}

/// Reads and writes past the page cache from now on.
///
/// # Errors
/// EINVAL for a file that can't.
pub(super) fn set_loop_direct_io(device: &File) -> io::Result<()> {
    loop_number(device, LOOP_SET_DIRECT_IO, 1)
}

/// Detaches the file.
///
/// # Errors
/// The kernel's.
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

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
        let info = LoopInfo::new(&[b'x'; 100], true);
        assert_eq!(info.file_name[62..], [b'x', 0]);
        assert_eq!(info.flags, LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY);
    }

    #[test]
    fn a_namespace_holder_leaves_no_process() {
        // Where this may not be done there is nothing to leave.
        let Ok(holder) = NamespaceHolder::start() else {
            return;
        };
        let pid = holder.pid();
        // As the reaper asks; by its PID, to leave other tests' children alone.
        assert_eq!(
            waitpid(pid, Some(WaitPidFlag::WNOHANG)),
            Err(Errno::ECHILD),
            "the reaper must not see it"
        );
        assert!(Path::new(&format!("/proc/{pid}/ns/user")).exists());
        drop(holder);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
