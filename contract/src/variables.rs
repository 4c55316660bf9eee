//! Environment variables that one program sets for the other.

/// Set by the shim for every `cedana-runc` that it runs.
pub const SHIM: &str = "CEDANA_SHIM";

/// Set by the shim for `cedana-runc checkpoint`: the client that requests the
/// checkpoint has paused the container for it and has read nothing of the
/// container yet, so the container may run between two attempts.
pub const MAY_RUN_BETWEEN_ATTEMPTS: &str = "CEDANA_MAY_RUN_BETWEEN_ATTEMPTS";

/// Set by the shim for `cedana-runc checkpoint`: the shim resumes the paused
/// container as soon as CRIU is done.
pub const SHIM_RESUMES: &str = "CEDANA_SHIM_RESUMES";

/// Set by the shim for `cedana-runc checkpoint`: the client stops the container after a
/// checkpoint that leaves it running, so the checkpoint must be one that can be restored.
pub const STOPPED_LATER: &str = "CEDANA_STOPPED_LATER";

/// Set by the shim's start for the shim, which hands it on to every `cedana-runc`:
/// containerd is 2.0 or later.
pub const CONTAINERD_2: &str = "CEDANA_CONTAINERD_2";
