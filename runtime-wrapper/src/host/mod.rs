//! The host's processes and files.
//!
//! ```text
//! child        the wrapped runtime as a child process; signals
//! procfs       processes in /proc
//! process_tree a process and its descendants
//! mountinfo    the mounts of a process
//! cgroup       a container's cgroup, v1 and v2
//! liveness     whether init runs after a restore
//! prune        directories whose oldest files are removed
//! search_path  PATH
//! sys          system calls that neither std nor nix offers
//! test_hooks   what tests set in the environment
//! ```

pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod liveness;
pub(crate) mod mountinfo;
pub(crate) mod process_tree;
pub(crate) mod procfs;
pub(crate) mod prune;
pub(crate) mod search_path;
pub(crate) mod sys;
pub(crate) mod test_hooks;
