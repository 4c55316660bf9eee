//! Attaches files to loop devices (loop(4)).
//!
//! The kernel detaches a device when its last user closes it, so the device is
//! released with the mount. Until the mount exists, the shim's descriptor is that
//! user.

use std::{
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::{EBUSY, EINVAL, ENOTTY, O_CLOEXEC};

use super::sys::{self, LoopConfig, LoopInfo};
use crate::error::{Context, Error, Result, at};

/// Another process can take the free device first. One of the competitors always
/// succeeds, so this many mounts can be created at the same time.
const ATTEMPTS: usize = 1000;

/// A loop device, attached as long as this value or a mount of the device exists.
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Attaches `file` to a free device.
    ///
    /// # Errors
    /// A file that can't be opened, or no loop devices.
    pub(super) fn attach(file: &Path, read_only: bool, direct_io: bool) -> Result<Self> {
        let control = Path::new("/dev/loop-control");
        let control = open(control, false).context(|| at("open", control))?;
        let backing = open(file, read_only).context(|| at("open", file))?;
        let info = LoopInfo::new(file.as_os_str().as_bytes(), read_only);
        for _ in 0..ATTEMPTS {
            let number = sys::free_loop_device(&control).context(|| "find a free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path, read_only).context(|| at("open", &path))?;
            match configure(&device, &backing, &info, direct_io) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _open: device,
                    });
                }
                Err(e) if e.raw_os_error() == Some(EBUSY) => std::thread::yield_now(),
                Err(e) => {
                    return Err(e)
                        .context(|| format!("attach {} to {}", file.display(), path.display()));
                }
            }
        }
        Err(Error::Runtime(format!(
            "attach {} to a loop device: other processes took {ATTEMPTS} free ones first",
            file.display()
        )))
    }

    /// The device's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn open(path: &Path, read_only: bool) -> io::Result<File> {
    File::options()
        .read(true)
        .write(!read_only)
        .custom_flags(O_CLOEXEC)
        .open(path)
}

fn configure(device: &File, backing: &File, info: &LoopInfo, direct_io: bool) -> io::Result<()> {
    let config = LoopConfig::new(backing, info, direct_io);
    match sys::configure_loop(device, &config) {
        // Before Linux 5.8 each step is a separate call.
        Err(e) if matches!(e.raw_os_error(), Some(EINVAL | ENOTTY)) => {}
        result => return result,
    }
    sys::set_loop_file(device, backing)?;
    let set = sys::set_loop_info(device, info).and_then(|()| match direct_io {
        true => sys::set_loop_direct_io(device),
        false => Ok(()),
    });
    if set.is_err() {
        // Only the first failure is reported.
        let _ = sys::clear_loop_file(device);
    }
    set
}
