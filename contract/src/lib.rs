//! The protocol between the shim and `cedana-runc`.
//!
//! The two are separate processes. This crate defines everything that one of them
//! writes and the other reads:
//!
//! ```text
//! shim ── variables, flags ──► cedana-runc ── files in the bundle ──► shim
//!                                   └──────── progress messages ────► shim
//! ```
//!
//! - [`variables`]: environment variables
//! - [`flags`]: command line flags, and the programs' names
//! - [`files`]: names of files and directories
//! - [`annotations`]: OCI annotations
//! - [`engine`]: names that containerd and Docker chose
//! - [`progress`]: the progress of a checkpoint, as messages
//! - [`id`]: the IDs of containers and exec processes
//! - [`pid`]: a process ID
//! - [`pidfd`]: descriptors of processes
//! - [`process`]: starting a child process that must not outlive its parent
//! - [`search_path`]: the search path for programs if there is no `PATH`

pub mod annotations;
pub mod engine;
pub mod files;
pub mod flags;
pub mod id;
pub mod pid;
pub mod pidfd;
pub mod process;
pub mod progress;
pub mod search_path;
pub mod variables;
