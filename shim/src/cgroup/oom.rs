//! Reports the OOM kills in a cgroup.
//!
//! Version 1 signals an eventfd that is registered in `cgroup.event_control`
//! for `memory.oom_control` (kernel doc cgroup-v1/memory.rst, section 10); the
//! removal of the cgroup signals the eventfd, too. On version 2 the kernel modifies
//! `memory.events`, which inotify reports. The `oom_kill` counter distinguishes a
//! kill from the other events in that file.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::task::AbortHandle;

use super::{Cgroup, files::keyed};
use crate::sys;

/// Calls `report` for every OOM kill in `cgroup` until the cgroup is removed or the
/// returned handle ends the watch.
///
/// # Errors
/// When the cgroup has no memory controller or can't be watched.
pub(crate) fn watch(
    cgroup: &Cgroup,
    report: impl Fn() + Send + 'static,
) -> io::Result<AbortHandle> {
    match cgroup {
        Cgroup::V1(dirs) => {
            let dir = dirs
                .get("memory")
                .ok_or_else(|| io::Error::other("the container has no memory cgroup"))?;
            watch_v1(dir, report)
        }
        Cgroup::V2(dir) => watch_v2(dir, report),
    }
}

fn watch_v1(dir: &Path, report: impl Fn() + Send + 'static) -> io::Result<AbortHandle> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let control = File::open(dir.join("memory.oom_control"))?;
    fs::write(
        dir.join("cgroup.event_control"),
        format!("{} {}", event.as_raw_fd(), control.as_raw_fd()),
    )?;
    let dir = dir.to_owned();
    on_readable(event.into(), move || {
        let exists = dir.join("memory.oom_control").exists();
        if exists {
            report();
        }
        exists
    })
}

fn watch_v2(dir: &Path, report: impl Fn() + Send + 'static) -> io::Result<AbortHandle> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(&dir.join("memory.events"), AddWatchFlags::IN_MODIFY)?;
    let dir = dir.to_owned();
    let mut known = keyed(&dir, "memory.events").get("oom_kill");
    on_readable(inotify.into(), move || {
        let events = keyed(&dir, "memory.events");
        let kills = events.get("oom_kill");
        if kills > known {
            report();
        }
        known = kills;
        events.exists()
    })
}

/// Calls `look` whenever `fd` is readable, until `look` returns false.
fn on_readable(
    fd: OwnedFd,
    mut look: impl FnMut() -> bool + Send + 'static,
) -> io::Result<AbortHandle> {
    let fd = sys::register_readable(fd)?;
    let watching = tokio::spawn(async move {
        while let Ok(mut ready) = fd.readable().await {
            // Only the event matters, not its data.
            let event = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut [0; 4096])?));
            if matches!(event, Ok(Ok(_))) && !look() {
                return;
            }
        }
    });
    Ok(watching.abort_handle())
}
