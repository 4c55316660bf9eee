//! Starting a child process that must not outlive its parent.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{getpid, getppid};

/// Makes the kernel kill the command when this process exits
/// (`PR_SET_PDEATHSIG`), because no other process takes its result.
///
/// The kernel sends the signal when the forking thread exits, so that thread must
/// live as long as the process.
pub fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let hook = move || {
        // SAFETY: prctl with these arguments touches no memory.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        match getppid() == parent {
            true => Ok(()),
            // The parent exited before the prctl, so the kernel sends no signal.
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: the hook runs between fork and exec and calls only
    // async-signal-safe functions; it neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_runs() {
        let mut command = Command::new("true");
        die_with_parent(&mut command);
        assert!(command.status().expect("a status").success());
    }
}
