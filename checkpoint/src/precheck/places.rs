//! Mounts of the container, and where their files come from.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::messages::Mount;
use super::mount::{OVERLAY, PROC, TMPFS};

/// A mount of the container, with where its files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mountpoint: String,
    /// The number of its mount namespace, as in the image's name.
    pub(super) namespace: u32,
    /// CRIU's number of the mount.
    pub(super) id: u32,
    /// The number of the mount that it is on.
    pub(super) parent: u32,
    pub(super) files: Files,
}

/// The origin of a mount's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Files {
    /// A file or directory of the host.
    Host(PathBuf),
    /// A tmpfs, whose files are in the checkpoint: the numbers that name its archive.
    Archive { device: u32, mount: u32 },
    /// Processes (proc(5)).
    Processes,
    /// The kernel's own files, none of which is a link that leads elsewhere.
    Kernel,
    /// A file system whose files can't be looked up before the restore.
    Unknown,
}

/// The files of a file system that CRIU mounts anew.
pub(super) fn files_of(mount: &Mount) -> Files {
    match mount.fstype {
        PROC => Files::Processes,
        TMPFS => archive(mount),
        OVERLAY => Files::Unknown,
        _ => Files::Kernel,
    }
}

/// A tmpfs, whose files are in the checkpoint.
pub(super) fn archive(mount: &Mount) -> Files {
    Files::Archive {
        device: mount.root_dev,
        mount: mount.mnt_id,
    }
}

pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
