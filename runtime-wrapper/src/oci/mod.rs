//! The wrapped OCI runtime, and its containers.
//!
//! ```text
//! runtime        the wrapped runtime's program
//! state          the runtime's record of a container
//! bundle         a container's directory and config.json
//! spec           config.json as JSON
//! nested_mounts  mounts below recursive bind mounts, named to CRIU
//! console        the socket that a runtime sends a terminal to
//! ```

pub(crate) mod bundle;
pub(crate) mod console;
pub(crate) mod nested_mounts;
pub(crate) mod runtime;
pub(crate) mod spec;
pub(crate) mod state;
