//! The manifest of a checkpoint, `cedana-manifest.json`.
//!
//! ```text
//! format       1; 2 with an archive of connections; 3 with memory in the store. A
//!              reader checks it first, and refuses a newer one
//! files        each file's name, kind, size and digest
//! store        the checkpoint's ID in the catalogue of the store, if its memory is there
//! machine      architecture, page size, CPU features, kernel
//! versions     of Cedana, CRIU and the runtime
//! container    its ID, image and OCI configuration
//! options      settings and flags of the checkpoint
//! cost         times and bytes
//! signature    a keyed hash of all of this, if the node has a key
//! ```
//!
//! A directory without one is a checkpoint by stock runc or crun. A manifest is
//! untrusted input, so its size is limited, and [`Manifest::check`] verifies it before
//! it is used: names must be plain file names, and sizes must be consistent. Readers
//! ignore unknown keys; a change that they must not ignore raises `format`.

mod check;
mod file;
mod schema;
mod signature;

pub use check::is_pages;
pub use file::Error;
pub(crate) use file::{Fault, MAX_BYTES};
pub(crate) use schema::PARENT;
pub use schema::{
    Container, Cost, Entry, FORMAT, Frames, Kind, Machine, Manifest, NAME, Pages, Process,
    StoreReference, Versions, WITH_STORE, WITH_STREAMS,
};
pub use serde_json::Value;
pub use signature::{Key, KeyError};

#[cfg(test)]
mod tests;
