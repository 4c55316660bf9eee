//! The host's processes and files.
//!
//! ```text
//! child        the wrapped runtime as a child process; signals
//! mountinfo    the mounts of a process
//! liveness     whether init runs after a restore
//! search_path  PATH
//! sys          system calls that neither std nor nix offers
//! test_hooks   what tests set in the environment
//! ```
//!
//! Processes in /proc, process trees and cgroups are the engine's
//! ([`cedana_checkpoint::host`]).

pub(crate) use cedana_checkpoint::host::{cgroup, process_tree, procfs};

pub(crate) mod child;
pub(crate) mod liveness;
pub(crate) mod mountinfo;
pub(crate) mod search_path;
pub(crate) mod sys;
pub(crate) mod test_hooks;

/// A process ID that a test made up.
#[cfg(test)]
pub(crate) fn pid(number: i32) -> cedana_contract::pid::Pid {
    number.try_into().expect("a process ID")
}
