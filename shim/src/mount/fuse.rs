//! Mounts file systems in user space through a mount helper: type
//! `fuse3.fuse-overlayfs` becomes
//! `mount.fuse3 SOURCE TARGET -o OPTION... -t fuse-overlayfs`. The helper starts a
//! server process, which exits when the file system is unmounted.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use cedana_contract::process::die_with_parent;
use containerd_shim::protos::types::mount::Mount;

use crate::{
    error::{Error, Result},
    reaper::Reaper,
    stderr,
};

/// A mount helper, and the file system type for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Helper<'a> {
    program: &'static str,
    kind: &'a str,
}

impl<'a> Helper<'a> {
    /// The helper for a mount type, if that type needs one.
    pub(super) fn of(kind: &'a str) -> Option<Self> {
        let (family, kind) = kind.split_once('.')?;
        let program = match family {
            "fuse" => "mount.fuse",
            "fuse3" => "mount.fuse3",
            _ => return None,
        };
        Some(Self { program, kind })
    }

    /// Runs the helper to its end.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the helper's stderr, or if the helper is not
    /// installed.
    pub(super) fn mount(&self, component: &Mount, target: &Path, reaper: &Reaper) -> Result<()> {
        let mut command = Command::new(self.program);
        command.arg(&component.source).arg(target);
        for option in &component.options {
            command.arg("-o").arg(option);
        }
        command.args(["-t", self.kind]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // The server process may keep this stderr open as long as it runs.
        let stderr = stderr::capture(&mut command)?;
        die_with_parent(&mut command);
        let (_, exit) = reaper.spawn(&mut command).map_err(|e| {
            Error::Runtime(format!(
                "cannot run {:?} for a mount of type {:?}: {e}; install it (package fuse or fuse3)",
                self.program, component.type_
            ))
        })?;
        match exit.blocking_recv() {
            Ok(0) => Ok(()),
            status => Err(Error::Runtime(format!(
                "mount helper {:?} exited with status {}: {}",
                self.program,
                status.unwrap_or(-1),
                stderr::text(stderr).unwrap_or_else(|| "no message".into())
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_names_the_helper() {
        let helper = |program, kind| Some(Helper { program, kind });
        assert_eq!(
            Helper::of("fuse3.fuse-overlayfs"),
            helper("mount.fuse3", "fuse-overlayfs")
        );
        assert_eq!(Helper::of("fuse.x.y"), helper("mount.fuse", "x.y"));
        for kind in ["overlay", "fuse", "fuseblk", "nfs.x", ""] {
            assert_eq!(Helper::of(kind), None, "{kind}");
        }
    }
}
