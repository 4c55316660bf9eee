//! CRIU as the wrapped runtime runs it.
//!
//! ```text
//! conf         is CRIU there; its configuration for one run
//! images_view  the directory that it restores from
//! post_dump    the action script in which it waits until a checkpoint is stored
//! post_resume  the action script by which it says that a restored container runs
//! log          what a run left: its log, and why it failed
//! log_archive  the logs of failures, kept where the error message says
//! ```

mod conf;
pub(crate) mod images_view;
mod log;
mod log_archive;
pub(crate) mod post_dump;
pub(crate) mod post_resume;

pub(crate) use conf::{ConfigFile, check};
pub(crate) use log::{Failure, Log, hook_failed};
pub(crate) use log_archive::LogNote;
