//! The host's processes and files, for all programs that run CRIU.
//!
//! ```text
//! procfs       processes in /proc
//! process_tree a process and its descendants
//! cgroup       a cgroup's processes, freezer and limits, v1 and v2
//! prune        directories whose oldest files are removed
//! sys          system calls that neither std nor nix offers
//! ```

pub mod cgroup;
pub mod process_tree;
pub mod procfs;
pub mod prune;
pub mod sys;
