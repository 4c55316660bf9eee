//! CRIU, run by the wrapped runtime.
//!
//! ```text
//! accept             the checkpoints that the node accepts
//! action_script      this program as a script that CRIU runs
//! conf               CRIU's version, and its configuration for one run
//! config_annotation  the configuration file that a container's annotation names
//! images_view        the directory that it restores from
//! post_dump          the action script that waits until a checkpoint is stored
//! post_resume        the action script that reports that a restored container runs
//! log                the log of one run, and the cause of its failure
//! log_archive        copies of the logs of failures
//! ```

mod accept;
pub(crate) mod action_script;
mod conf;
pub(crate) mod config_annotation;
pub(crate) mod images_view;
mod log;
mod log_archive;
pub(crate) mod post_dump;
pub(crate) mod post_resume;

pub(crate) use conf::{ConfigFile, check};
pub(crate) use log::{Failure, Log, hook_failed};
pub(crate) use log_archive::LogNote;
