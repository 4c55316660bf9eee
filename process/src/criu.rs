//! CRIU's command.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cedana_contract::pid::Pid;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// CRIU's command. Its standard input must be the socket of its caller.
pub(crate) fn criu(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["swrk", "0"])
        .current_dir("/")
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

/// Makes CRIU's next write fail, so that it undoes a dump. It is a child of this process
/// that has not been reaped, so its PID is not another process's.
pub(crate) fn stop_writing(criu: Pid) {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: prlimit reads one structure, which lives for the whole call.
    let _ = unsafe {
        libc::prlimit(
            criu.as_raw(),
            libc::RLIMIT_FSIZE,
            &raw const none,
            std::ptr::null_mut(),
        )
    };
}
