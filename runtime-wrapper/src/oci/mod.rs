//! The container as an OCI runtime knows it.
//!
//! ```text
//! runtime        the wrapped runtime's program
//! state          what it has written down about a container
//! bundle         a container's directory and config.json
//! spec           config.json as JSON
//! nested_mounts  mounts below recursive bind mounts, named for CRIU
//! console        the socket that a terminal is sent to
//! ```

pub(crate) mod bundle;
pub(crate) mod console;
pub(crate) mod nested_mounts;
pub(crate) mod runtime;
pub(crate) mod spec;
pub(crate) mod state;
