//! The output for the caller.
//!
//! This program's own is the progress of a checkpoint; the rest is the engine's
//! ([`cedana_checkpoint::output`]).

pub(crate) mod progress;

pub(crate) use cedana_checkpoint::output::{printable, report, timestamp, units};
