//! The network of a restored container.
//!
//! ```text
//! netns         a network namespace for a bundle that has none
//! tcp           which connections of the checkpoint are kept
//! network_lock  their segments, dropped until both ends exist
//! ```

pub(crate) mod netns;
pub(crate) mod network_lock;
pub(crate) mod tcp;
