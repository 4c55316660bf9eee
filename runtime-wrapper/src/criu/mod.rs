//! CRIU, run by the wrapped runtime.
//!
//! ```text
//! action_script      this program as a script that CRIU runs
//! conf               CRIU's version, and its configuration for one run
//! config_annotation  the configuration file that a container's annotation names
//! post_dump          the action script that waits until a checkpoint is stored
//! post_resume        the action script that reports that a restored container runs
//! log                the log of one run, and the cause of its failure
//! ```

pub(crate) mod action_script;
mod conf;
pub(crate) mod config_annotation;
mod log;
pub(crate) mod post_dump;
pub(crate) mod post_resume;

pub(crate) use cedana_checkpoint::criu::log_archive::LogNote;
pub(crate) use conf::{ConfigFile, check};
pub(crate) use log::{Failure, Log, hook_failed};
