//! Behaviour of Docker and containerd that a checkpoint depends on.
//!
//! ```text
//! docker          recognizes Docker, and checkpoints that it can't restore
//! checkpoint_dir  directories that containerd packs into an archive
//! content_gc      waits for the garbage collection of containerd's content store
//! ```

pub(crate) mod checkpoint_dir;
pub(crate) mod content_gc;
pub(crate) mod docker;
