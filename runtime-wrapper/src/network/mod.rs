//! The network of a restored container.
//!
//! ```text
//! netns         a network namespace for a bundle that has none
//! tcp           whether the checkpoint's TCP connections are kept or closed
//! network_lock  drops the connections' segments until they are restored
//! ```

pub(crate) mod netns;
pub(crate) mod network_lock;
pub(crate) mod tcp;
