//! Address spaces, and the bytes of each that are in the checkpoint.
//!
//! An mm image lists mappings; a pagemap lists runs of dumped pages, which are assigned
//! to mappings by their addresses. Each segment of shared memory has its own pagemap.

mod mappings;
mod pages;
mod process;

pub use mappings::{Mapping, MappingKind};
pub(super) use pages::Pages;
pub use pages::{Share, SharedMemory};
pub use process::Memory;
