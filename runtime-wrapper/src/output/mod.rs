//! What the caller reads.
//!
//! ```text
//! report    errors and warnings: stderr and the runtime's log
//! progress  how far a checkpoint is
//! units     sizes and times as text
//! ```

pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod units;
