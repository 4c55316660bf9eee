//! Stores page images while CRIU writes them.
//!
//! CRIU writes a process's memory to `pages-N.img` while the application is
//! frozen. Compression and the disk are slower than CRIU, so CRIU doesn't wait
//! for them: its file is used as a pipe in the page cache. The workers read
//! behind CRIU and punch holes where its file is stored, so the kernel rarely writes
//! those blocks to disk. If the workers can't keep up, the file grows as it would
//! without them, and the kernel's write-back bounds memory. If write-back would
//! start and there is enough memory, the file is a memfd ([`memory`]).
//!
//! ```text
//! CRIU ──► pages-N.img ─┬─ worker ─ read, compress ─┐  in order
//!              ▲        └─ worker ─ read, compress ─┴──────────► pages-N.img.zst
//!              └─────────── punch hole ◄── written ──┘                │
//! watcher: names, lengths and closes of files                         ▼
//!                                               disk: past the page cache, early
//! ```
//!
//! **The watcher** ([`watch`]) waits for the directory's events and, while a
//! file grows, polls its length. **Workers** ([`work`]) take the next piece, a few
//! frames, of the first file that has one. The worker that completes the next
//! piece in order writes it, and the ready pieces after it. No worker waits for
//! another, unless the ready pieces use up the memory setting.
//! **The disk's thread** ([`disk`]) writes stored blocks to disk early. They share the
//! state of the capture ([`shared`], [`order`]) and of each page image ([`page_file`]).
//!
//! While CRIU runs the workers have the lowest priority, because the frozen
//! application waits for CRIU and for CRIU's code in its processes. When CRIU has
//! exited they get this process's priority. If that is not allowed (no
//! CAP_SYS_NICE), new workers replace them.
//!
//! CRIU writes a page file from beginning to end, closes it, and doesn't open it
//! again. This is checked: before the file is removed, its length must be the number
//! of stored bytes. With [`Compression::None`] the workers write and punch nothing.
//! They only compute the frames' digests, and keep their priority.
//!
//! With an archive as the target the frames go straight into it ([`archive`]), and
//! CRIU's files are read and punched in the same way, with [`Compression::None`] too.
//!
//! With a store as the target the workers cut the memory into chunks, and store those
//! that are new ([`chunks`]). In the directory is a list of them.
//!
//! If this process is killed, CRIU's file has holes and is useless, so CRIU writes
//! to a staging directory, which is not a checkpoint ([`crate::format::publish`]). If
//! CRIU fails, the caller drops the [`Capture`], which stops it, and removes the
//! directory.

mod archive;
mod chunks;
mod disk;
mod error;
mod memory;
mod options;
mod order;
mod page_file;
mod shared;
mod threads;
mod watch;
mod work;

pub use archive::ArchiveWriter;
pub use error::Error;
pub use memory::Expected;
pub use options::Options;
pub use shared::Captured;
pub use threads::{Archive, Capture};

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
