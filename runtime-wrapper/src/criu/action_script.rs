//! This program as an action script of CRIU.
//!
//! CRIU runs the scripts of its configuration at each step, with the step's name in an
//! environment variable (criu/action-scripts.c). They share pipes with the command that
//! waits for them. Neither runtime passes descriptors on, so a script opens the pipes
//! through the command's entries in /proc.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::Version;

use crate::host::procfs;
use cedana_contract::pid::Pid;

/// The first CRIU that runs the scripts of a configuration file beside the runtime's
/// own notifications. An older one would abort.
const SINCE: Version = Version {
    major: 3,
    minor: 19,
    sublevel: 0,
};

/// Whether this CRIU runs action scripts.
pub(super) fn is_run_by(criu: Version) -> bool {
    criu >= SINCE
}

/// The script for CRIU's configuration: this program.
pub(crate) fn program() -> PathBuf {
    procfs::of(Pid::own()).join("exe")
}

/// The step, and the value of `variable`; `None` if CRIU has not started this process
/// as the script that reads the variable.
pub(super) fn step(variable: &str) -> Option<(OsString, OsString)> {
    let step = env::var_os("CRTOOLS_SCRIPT_ACTION")?;
    Some((step, env::var_os(variable)?))
}

/// Writes one byte to a pipe of the command that waits for the script.
pub(super) fn notify(pipe: impl AsRef<Path>) -> io::Result<()> {
    OpenOptions::new().write(true).open(pipe)?.write_all(&[1])
}
