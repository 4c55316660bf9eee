//! Staging and atomic publishing of a checkpoint, and recovery after a kill.
//!
//! A directory without inventory.img is not a checkpoint. So a new checkpoint is
//! written to a subdirectory; the older inventory is the first file to be removed,
//! and the new one the last to be moved:
//!
//! ```text
//! DIR/.cedana-new     the runtime, CRIU and the capture write here
//!   │                 files synced, then this directory
//!   ▼ rename ──────── DIR synced: from here on the new checkpoint is recovered
//! DIR/.cedana-ready   an older checkpoint in DIR is removed, inventory first
//!   ▼ rename ──────── DIR synced
//! DIR/.cedana-moving  the files move up into DIR, synced, then the inventory
//!   ▼ rmdir
//! DIR/*               the new checkpoint
//! ```
//!
//! A killed process leaves one of these names behind, and the next checkpoint or
//! restore recovers from it ([`recover`]): it removes `.cedana-new`. The other two are
//! complete and on disk, so it moves them to their place. Until then the directory
//! holds the older checkpoint or none, never a mixture.
//!
//! The subdirectory is in DIR, and not beside it, because engines create DIR and
//! remove it when a checkpoint fails, with the leftovers. The writing process holds a
//! lock on DIR, which distinguishes a running checkpoint from a leftover.
//!
//! Before that, many images of TCP connections become one file ([`packing`]).
//!
//! Other files in DIR stay.
//!
//! If the caller copies DIR and removes it, nothing is synced
//! ([`Durability::Copied`]): the order of the steps protects against a kill, and
//! the copy against a power failure.
//!
//! An archive is one file, so a link publishes it ([`new_archive`], [`new_file`]).

mod error;
mod new_archive;
mod new_file;
mod packing;
mod recover;
mod scratch;
mod staging;
mod steps;

pub use error::{Error, is_full};
pub use new_archive::{ArchivePlace, NewArchive, archive_name};
pub use new_file::{FilePlace, NewFile, Taken, open_directory};
pub use recover::recover;
pub use scratch::Scratch;
pub use staging::Staging;
pub use steps::Durability;

#[cfg(test)]
mod packing_tests;
#[cfg(test)]
mod tests;
