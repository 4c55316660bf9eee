//! The lazy memory of a checkpoint: the pages that CRIU leaves to the page source.
//!
//! ```text
//! pagemap-PID.img   runs of pages, in the order of the pages file; each says
//!                   whether CRIU takes it lazily
//! mm-PID.img        the mappings that the runs are in
//!      └──► Layout: per process: address, length, page file, offset in it
//!               └──► Memory: the same, with the page files open
//! ```
//!
//! A dump marks every page that a lazy restore *could* skip, and a lazy restore
//! skips all of those and no others (CRIU's mem.c, `restore_priv_vma_content`).
//! Runs are cut at the ends of mappings, because one userfaultfd request must lie within
//! one mapping.
//!
//! Since CRIU 4.2 the list of mappings is not disjoint: a guard region
//! (`MADV_GUARD_INSTALL`, each thread stack of glibc 2.42 has one) is an entry of
//! its own that lies inside another mapping. It holds no pages, and CRIU registers
//! the mapping around it.
//!
//! The images' digests have been compared before, so an image that is inconsistent
//! here is not damaged: it has content that this version does not know. CRIU, which
//! wrote it, then restores the checkpoint eagerly ([`NotLazy`]).

mod error;
mod memory;
mod processes;
mod runs;

pub use error::NotLazy;
pub use memory::Memory;
pub use processes::Layout;
pub use runs::Run;
