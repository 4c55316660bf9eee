//! The container engines above the runtime, where a checkpoint depends on them.
//!
//! ```text
//! docker          what Docker can't restore
//! checkpoint_dir  directories that containerd packs
//! content_gc      the garbage collection of containerd's content store
//! ```

pub(crate) mod checkpoint_dir;
pub(crate) mod content_gc;
pub(crate) mod docker;
