//! Mounts one component of a container's root, and unmounts everything below a root.
//!
//! containerd describes a component like a line of fstab: type, source, options.
//! mount(2) accepts most options. These are containerd's own (`core/mount`, 1.7 to
//! 2.4), and the kernel refuses them:
//!
//! | option or type | sender | here |
//! |---|---|---|
//! | `uidmap=`, `gidmap=` | overlay snapshotter, for user namespaces | [`idmap`] |
//! | `loop`, `direct-io` | blockfile and erofs snapshotters | [`loopdev`] |
//! | an overlay's `lowerdir=` longer than a page | images of many layers | [`options`] |
//! | `fuse.TYPE`, `fuse3.TYPE` | fuse-overlayfs snapshotter, stargz | [`fuse`] |
//! | `X-containerd.*`, `format/TYPE`, `mkdir/TYPE`, `mkfs/TYPE` | containerd 2.2's mount manager, for itself | refused by name |

mod fuse;
mod idmap;
mod loopdev;
mod options;
mod sys;
mod unmount;

use std::path::Path;

use containerd_shim::protos::types::mount::Mount;
use nix::{
    errno::Errno,
    mount::MsFlags,
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
    unistd::{SysconfVar, chdir, sysconf},
};

use self::{loopdev::LoopDevice, options::Options};
use crate::{
    error::{Context, Error, Result, at},
    reaper::Reaper,
};

pub(crate) use self::unmount::unmount;

/// The longest options that mount(2) reads: one page, including the final NUL. The
/// kernel silently ignores the rest.
fn options_limit() -> usize {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|page| usize::try_from(page).ok())
        .unwrap_or(4096)
        - 1
}

/// The type whose layers are given as options.
const OVERLAY: &str = "overlay";

/// Mounts `component` on `target`.
///
/// The working directory of the calling thread may change, so the caller needs a
/// separate thread. On failure nothing is mounted.
///
/// # Errors
/// [`Error::InvalidArgument`] for an invalid description; the error of the kernel or
/// of a mount helper.
pub(crate) fn mount(component: &Mount, target: &Path, reaper: &Reaper) -> Result<()> {
    if let Some(helper) = fuse::Helper::of(&component.type_) {
        return helper.mount(component, target, reaper);
    }
    if component.type_.contains('/') {
        return Err(Error::InvalidArgument(format!(
            "mount type {:?} is for containerd's mount manager, which has not resolved it: \
             containerd 2.2 or newer is needed",
            component.type_
        )));
    }
    let options = Options::parse(&component.options)?;
    let plain = Plain {
        kind: &component.type_,
        source: &component.source,
        options: &options,
    };
    match options.id_maps()? {
        Some(maps) => {
            let tree = idmap::detached(&plain, &maps, target)?;
            sys::move_mount(&tree, target).context(|| at("attach an id-mapped mount to", target))
        }
        None => plain.mount(target),
    }
}

/// A component without its id map.
struct Plain<'a> {
    kind: &'a str,
    source: &'a str,
    options: &'a Options<'a>,
}

impl Plain<'_> {
    fn mount(&self, target: &Path) -> Result<()> {
        let data = &self.options.data;
        let long = self.kind == OVERLAY && data.join(",").len() > options_limit();
        if let Some((directory, shortened)) = long.then(|| options::shorten(data)).flatten() {
            // Keeps the working directory of the other threads.
            unshare(CloneFlags::CLONE_FS).context(|| "leave the working directory")?;
            chdir(&directory).context(|| at("change to", &directory))?;
            return self.mount_with(&shortened.join(","), target);
        }
        self.mount_with(&data.join(","), target)
    }

    /// Mounts with `data` as the file system's options.
    fn mount_with(&self, data: &str, target: &Path) -> Result<()> {
        let flags = self.options.flags;
        if data.len() > options_limit() {
            return Err(Error::InvalidArgument(format!(
                "mount options of {} have {} characters, the kernel takes {}",
                target.display(),
                data.len(),
                options_limit()
            )));
        }
        // The file system applies changed options of a remount. Without options only
        // the flags of a bind mount change, below.
        if !flags.contains(MsFlags::MS_REMOUNT) || !data.is_empty() {
            let device = match self.options.loop_device {
                true => Some(LoopDevice::attach(
                    Path::new(self.source),
                    flags.contains(MsFlags::MS_RDONLY),
                    self.options.direct_io,
                )?),
                false => None,
            };
            let source = device
                .as_ref()
                .map_or(Path::new(self.source), LoopDevice::path);
            // The kernel detaches the device when its last user closes it, so the
            // shim keeps it open until the mount exists.
            self.call(source, target, flags, data)?;
        }
        let read_only_bind = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        if flags.contains(read_only_bind) {
            self.remount(target, flags)?;
        }
        Ok(())
    }

    fn call(&self, source: &Path, target: &Path, flags: MsFlags, data: &str) -> Result<()> {
        nix::mount::mount(
            some(source.as_os_str()),
            target,
            some(self.kind),
            flags,
            some(data),
        )
        .map_err(|e| {
            let hint = match e {
                Errno::ENODEV => "; the kernel has no such file system",
                Errno::ENOTBLK => "; a file is mounted with the option loop",
                _ => "",
            };
            Error::Runtime(format!(
                "mount {:?} on {} (type {:?}, flags {:#x}, options {data:?}): {e}{hint}",
                source,
                target.display(),
                self.kind,
                flags.bits(),
            ))
        })
    }

    /// Makes a bind mount read-only. The call that creates a bind mount ignores the
    /// flag (mount(2), "Creating a bind mount").
    fn remount(&self, target: &Path, flags: MsFlags) -> Result<()> {
        let flags = flags | MsFlags::MS_REMOUNT;
        let remount = |flags| nix::mount::mount(NOTHING, target, NOTHING, flags, NOTHING);
        let result = match remount(flags) {
            // In a user namespace the inherited flags of a mount are locked and must
            // be repeated (mount_namespaces(7)).
            Err(Errno::EPERM) => remount(flags | flags_of(target)?),
            result => result,
        };
        result.context(|| at("make read-only", target))
    }
}

/// An omitted argument of mount(2).
const NOTHING: Option<&str> = None;

fn some<T: AsRef<std::ffi::OsStr> + ?Sized>(text: &T) -> Option<&T> {
    Some(text).filter(|text| !text.as_ref().is_empty())
}

/// The flags that a mount has and that a user namespace may not clear.
fn flags_of(target: &Path) -> Result<MsFlags> {
    let known = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    let now = statvfs(target).context(|| at("statvfs", target))?.flags();
    Ok(known
        .into_iter()
        .filter(|(flag, _)| now.contains(*flag))
        .map(|(_, flag)| flag)
        .collect())
}
