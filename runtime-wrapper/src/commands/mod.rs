//! What this program is asked to do, a verb to a module.
//!
//! ```text
//! checkpoint, restore   prepared, run by the wrapped runtime, judged
//! inspect, unpack       verbs of no OCI runtime
//! passthrough           everything else
//! error                 why one of them did not succeed
//! ```

pub(crate) mod checkpoint;
pub(crate) mod error;
pub(crate) mod inspect;
pub(crate) mod passthrough;
pub(crate) mod restore;
pub(crate) mod unpack;
