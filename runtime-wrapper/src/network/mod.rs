//! The network of a restored container.
//!
//! ```text
//! netns         a network namespace for a bundle that has none
//! tcp           whether the checkpoint's TCP connections are kept or closed
//! sysctl        the namespace's sysctls, as the spec has them
//! network_lock  drops the connections' segments until they are restored
//! ```

pub(crate) mod netns;
pub(crate) mod network_lock;
pub(crate) mod sysctl;
pub(crate) mod tcp;
