//! The output for a caller or a log.
//!
//! ```text
//! report     errors and warnings: stderr and a log
//! printable  text of a checkpointed program without control characters
//! units      sizes and durations as text
//! timestamp  times as text
//! file_name  names of containers and processes in names of files
//! ```

pub(crate) mod file_name;
pub mod printable;
pub mod report;
pub mod timestamp;
pub mod units;
