//! The commands, one module for each verb.
//!
//! ```text
//! checkpoint, restore   run by the wrapped runtime, with preparation and diagnosis
//! inspect, unpack       verbs of no OCI runtime
//! passthrough           all other verbs, by exec of the wrapped runtime
//! error                 why a command failed
//! ```

pub(crate) mod checkpoint;
pub(crate) mod copy_output;
pub(crate) mod error;
pub(crate) mod inspect;
pub(crate) mod passthrough;
pub(crate) mod restore;
pub(crate) mod unpack;
