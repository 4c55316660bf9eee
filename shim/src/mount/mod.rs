//! One component of a container's root: mounts it as containerd describes it,
//! and unmounts what is below a root.
//!
//! A description is a line of fstab: type, source, options. mount(2) takes most
//! options; these are containerd's own (`core/mount`, 1.7 to 2.4), and the
//! kernel refuses them:
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

/// mount(2) reads a page of options, with the byte that ends them, and silently
/// leaves out the rest.
fn options_limit() -> usize {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|page| usize::try_from(page).ok())
        .unwrap_or(4096)
        - 1
}

/// The type whose layers are options.
const OVERLAY: &str = "overlay";

/// Mounts `component` on `target`.
///
/// The calling thread may be left in another working directory: call it on a
/// thread of its own. When it fails, nothing is mounted.
///
/// # Errors
/// [`Error::InvalidArgument`] for a description that is not understood; what
/// the kernel, or a mount helper, refused.
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
            // Not the working directory of the process.
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
        // Changed options of a remount are the file system's to apply; without
        // any, only the flags of a bind mount change, below.
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
            // The device detaches itself when its last user closes it, so it is
            // held until the mount is one.
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

    /// Makes a bind mount read-only: the call that makes it leaves its flags as
    /// they are (mount(2), "Creating a bind mount").
    fn remount(&self, target: &Path, flags: MsFlags) -> Result<()> {
        let flags = flags | MsFlags::MS_REMOUNT;
        let remount = |flags| nix::mount::mount(NOTHING, target, NOTHING, flags, NOTHING);
        let result = match remount(flags) {
            // In a user namespace the flags that the mount came with are locked
            // and must be repeated (mount_namespaces(7)).
            Err(Errno::EPERM) => remount(flags | flags_of(target)?),
            result => result,
        };
        result.context(|| at("make read-only", target))
    }
}

/// An argument of mount(2) that is left out.
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
