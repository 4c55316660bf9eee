//! CRIU's command.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// CRIU's command, with `socket` as its standard input.
pub(crate) fn criu(program: &Path, socket: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command
        .args(["swrk", "0"])
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let prepare = || {
        SigSet::empty().thread_set_mask()?;
        for ignored in [Signal::SIGPIPE, Signal::SIGXFSZ] {
            // SAFETY: no handler is set, and the standard library's own setting of
            // SIGPIPE precedes this.
            unsafe { signal(ignored, SigHandler::SigIgn) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only async-signal-safe system
    // calls (sigprocmask, sigaction) and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    command
}
