//! File systems in user space, which are mounted by a helper: type
//! `fuse3.fuse-overlayfs` is `mount.fuse3 SOURCE TARGET -o OPTION... -t
//! fuse-overlayfs`. The helper leaves a process that serves the file system and
//! ends when that is unmounted.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use cedana_contract::process::die_with_parent;
use containerd_shim::protos::types::mount::Mount;

use crate::{
    error::{Error, Result},
    reaper::Reaper,
    runtime::{capture_stderr, captured_text},
};

/// A program that mounts, and the type that it mounts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Helper<'a> {
    program: &'static str,
    kind: &'a str,
}

impl<'a> Helper<'a> {
    /// The helper for a mount type, if it takes one.
    pub(super) fn of(kind: &'a str) -> Option<Self> {
        let (family, kind) = kind.split_once('.')?;
        let program = match family {
            "fuse" => "mount.fuse",
            "fuse3" => "mount.fuse3",
            _ => return None,
        };
        Some(Self { program, kind })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Error::Runtime`] with what it printed, or that it is not installed.
    pub(super) fn mount(&self, component: &Mount, target: &Path, reaper: &Reaper) -> Result<()> {
        let mut command = Command::new(self.program);
        command.arg(&component.source).arg(target);
        for option in &component.options {
            command.arg("-o").arg(option);
        }
        command.args(["-t", self.kind]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // The server that it leaves may hold this for as long as it lives.
        let stderr = capture_stderr(&mut command)?;
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
                "mount helper {:?} ended with status {}: {}",
                self.program,
                status.unwrap_or(-1),
                captured_text(stderr).unwrap_or_else(|| "it said nothing".into())
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
