//! OCI annotations.

/// The prefix of annotations that are settings: `io.cedana.restore.mode`.
pub const PREFIX: &str = "io.cedana.";
