//! The output for the caller.
//!
//! ```text
//! report     errors and warnings: stderr and the runtime's log
//! printable  text of a container without control characters
//! progress   the progress of a checkpoint
//! units      sizes and durations as text
//! timestamp  times as text
//! ```

pub(crate) mod printable;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod timestamp;
pub(crate) mod units;
