//! Names of files.

/// The file in a bundle that says why the page source killed the container. It is
/// written before the kill.
pub const KILLED: &str = "cedana-killed";

/// The node's key, with which checkpoints are signed.
pub const KEY: &str = "/etc/cedana/key";
