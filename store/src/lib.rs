//! The store: where the memory of checkpoints is kept, each part once.
//!
//! ```text
//!                       store.path, /var/lib/cedana/store
//! a checkpoint's memory ─► chunks ─┬─ known ─────────────────────────► (nothing)
//!  (session)                       └─ new ─► incoming/ID.pack ─► packs/ID.pack
//!                                              catalogue.db: checkpoints, chunks, packs
//! list of chunks ◄── in the checkpoint's directory, beside CRIU's small images
//!  │
//!  └► memory (a restore) ─► packs/ID.pack
//!
//! collection, check ─► catalogue.db, packs/
//! ```
//!
//! Every process that writes or reads memory opens the store itself; none of them must be
//! running for the others. What they share:
//!
//! - **`lock`**, a file: a session and a restore that opens its packs hold it shared,
//!   the sweep of a collection alone. So no chunk is removed between the moment when a
//!   session finds it and the moment when its checkpoint refers to it.
//! - **the catalogue**, SQLite with a write-ahead log. It is made again from the packs and
//!   the directories of checkpoints if it is lost ([`check`]).
//! - **packs** never change. One that is being written is in `incoming/`, locked by its
//!   writer; one without a writer is removed.
//!
//! A process that is killed, or a machine that loses power, leaves at most a pack that the
//! catalogue does not know or a checkpoint in the catalogue without a directory.
//! Collection removes both after a while ([`collect`]).
//!
//! ```text
//! chunk/      where memory is cut; names, digests, similarity
//! list        a page file's list of chunks
//! pack/       files of compressed chunks
//! place/      where packs are kept
//! catalogue/  SQLite
//! session/    writing a checkpoint's memory
//! memory      reading it
//! collect/    removing what no checkpoint needs
//! check/      comparing all of it, and repairing it
//! stats       how much it holds and saves
//! ```

pub mod catalogue;
pub mod check;
pub mod chunk;
pub mod clock;
pub mod collect;
mod error;
#[cfg(test)]
mod fixture;
pub mod list;
pub mod memory;
pub mod pack;
pub mod place;
pub mod session;
pub mod stats;
mod store;

pub use error::Error;
pub use store::{Guard, Store};
