//! The places where config.json mounts something.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use cedana_checkpoint::criu::config::fits;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::oci::spec;

/// The mounts of a configuration, and what the runtime mounts besides.
#[derive(Debug)]
pub(super) struct Destinations(Vec<Destination>);

#[derive(Debug)]
struct Destination {
    /// In the container, with symbolic links resolved.
    path: PathBuf,
    /// The host's path of a recursive bind mount; `None` for other mounts.
    source: Option<PathBuf>,
}

impl Destinations {
    /// The destinations in a configuration, for a container whose root is at `root`.
    pub(super) fn of(spec: &Value, bundle: &Path, root: &Path) -> Self {
        let list = |pointer: &str| spec.pointer(pointer).and_then(Value::as_array);
        let mounts = list("/mounts").into_iter().flatten().filter_map(|mount| {
            let text = |key| mount.get(key).and_then(Value::as_str);
            let source = text("source")
                .filter(|_| spec::is_recursive_bind(mount))
                .and_then(|source| bundle.join(source).canonicalize().ok());
            Some(Destination {
                path: resolve_in(root, text("destination")?),
                source,
            })
        });
        // Runtimes mount these, too, and name them to CRIU.
        let masked = list("/linux/maskedPaths").into_iter().flatten();
        let devices = list("/linux/devices").into_iter().flatten();
        let others = masked
            .filter_map(Value::as_str)
            .chain(devices.filter_map(|device| device.get("path")?.as_str()))
            .map(|path| Destination {
                path: resolve_in(root, path),
                source: None,
            });
        Self(mounts.chain(others).collect())
    }

    /// The sources of the recursive bind mounts.
    pub(super) fn recursive_sources(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|at| at.source.as_deref())
    }

    /// The host's path of a mountpoint below a recursive bind mount. `None` if the
    /// configuration names the mountpoint itself, or if its closest mount above is
    /// no recursive bind mount.
    pub(super) fn source_of(&self, mountpoint: &Path) -> Option<PathBuf> {
        if !is_plain(mountpoint) {
            return None;
        }
        let above = self
            .0
            .iter()
            .filter(|at| mountpoint.starts_with(&at.path))
            // Of two mounts on one path the later covers the other.
            .max_by_key(|at| at.path.components().count())?;
        let rest = mountpoint.strip_prefix(&above.path).ok()?;
        if rest.as_os_str().is_empty() {
            return None;
        }
        Some(above.source.as_ref()?.join(rest))
    }
}

/// Whether a path is absolute, without `.` and `..`, and fits into CRIU's
/// configuration.
fn is_plain(path: &Path) -> bool {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && path.is_absolute() && path.to_str().is_some_and(fits)
}

/// A path of the container, with symbolic links resolved inside its root. A path
/// that does not exist yet, because the runtime makes it, is returned unchanged.
pub(super) fn resolve_in(root: &Path, path: &str) -> PathBuf {
    let resolve = || -> io::Result<PathBuf> {
        let root = File::open(root)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let target = openat2(&root, Path::new(path), how)?;
        let name = |fd: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (root, target) = (name(&root)?, name(&target)?);
        target
            .strip_prefix(root)
            .map(|path| Path::new("/").join(path))
            .map_err(io::Error::other)
    };
    resolve().unwrap_or_else(|_| Path::new("/").join(path).components().collect())
}
