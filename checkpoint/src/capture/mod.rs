//! Storing page images while CRIU writes them.
//!
//! CRIU writes a process's memory to `pages-N.img`, and the application stands
//! still until it is done. Compressing and reaching the disk take longer than
//! that, so CRIU doesn't wait for them: its file is used as a pipe in the page
//! cache. We read behind CRIU, and punch a hole where we have read, so that the
//! kernel rarely gets to write those blocks to disk at all. If we can't keep up,
//! the file grows as it would without us, and the kernel's own write-back is
//! what bounds memory. Where it would begin with that, the file is one without a
//! disk if there is plenty of memory ([`memory`]).
//!
//! ```text
//! CRIU ──► pages-N.img ─┬─ worker ─ read, compress ─┐  in order
//!              ▲        └─ worker ─ read, compress ─┴──────────► pages-N.img.zst
//!              └─────────── punch hole ◄── written ──┘                │
//! watcher: which files there are, how long, which closed              ▼
//!                                               disk: past the page cache, early
//! ```
//!
//! **The watcher** ([`watch`]) waits for the directory's events and, while a
//! file grows, looks at its length now and then. **Workers** ([`work`]) take the
//! next piece of the first file that has one, a few frames. Whoever is done with
//! the piece whose turn it is writes it, and those that are ready after it; no
//! worker waits for another, unless so many pieces are ready that the memory
//! setting leaves no room for one more.
//! **The disk's thread** ([`disk`]) keeps the disk busy with what is written.
//!
//! While CRIU runs the workers have the lowest priority: one core is busy with
//! CRIU and the application's own part in the dump, and the application waits
//! for both. When CRIU has ended they get the priority of the rest of us; where
//! that is not allowed (no CAP_SYS_NICE), others are started in their place.
//!
//! CRIU writes a page file from beginning to end, closes it, and doesn't open it
//! again. This is not taken on trust: before the file is removed, its length
//! must be what was stored. With [`Compression::None`] nothing is written or
//! punched, the frames' digests are all there is to do, and the workers keep their
//! priority.
//!
//! If we die, CRIU's file has holes and is worth nothing; so it must not stand
//! where anybody would take it for a checkpoint ([`crate::format::publish`]). If
//! CRIU dies, the follower is dropped, and with it stops; what it wrote is
//! removed with the directory.

mod disk;
mod memory;
mod watch;
mod work;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::format::manifest::{Entry, Kind};
use crate::format::pages::{Compression, FRAME};
use crate::progress::Observer;
use crate::sys;

use disk::Disk;
pub use memory::Expected;
use memory::Memory;
use watch::Watcher;
use work::Shared;

/// How to store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How frames are stored.
    pub compression: Compression,
    /// What the workers' buffers may take, in bytes. At least one worker with a
    /// buffer for one frame there will be.
    pub memory: u64,
    /// Whether the disk is given what is stored at once, because it will be synced.
    /// What waits in memory, being so much, goes there in any case.
    pub flush: bool,
    /// What CRIU is going to write, if that is known.
    pub expected: Option<Expected>,
}

/// Why page images could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// zstd can't be set up.
    #[error("cannot compress: {0}")]
    Encoder(io::Error),
    /// A page image is not what was read of it.
    #[error("{} has {found} bytes, and {read} were read of it: CRIU wrote to it after it had closed it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What was read.
        read: u64,
    },
    /// No thread, or no way to wake one.
    #[error("cannot start to follow CRIU: {0}")]
    Start(io::Error),
}

impl Error {
    /// Whether the disk, or the user's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => crate::format::publish::is_full(source),
            _ => false,
        }
    }
}

/// What became of the page images of a directory.
#[derive(Debug)]
pub struct Followed {
    /// An entry for each file stored, the trailers of plain ones among them.
    pub files: Vec<Entry>,
    /// Bytes that CRIU wrote.
    pub raw_bytes: u64,
    /// Bytes they take now.
    pub stored_bytes: u64,
    /// False if the file system can't punch holes, so that both CRIU's files and
    /// ours were there in full.
    pub punched: bool,
}

/// Follows a CRIU that writes to one directory. Dropping it stops it.
pub struct Follower {
    shared: Arc<Shared>,
    watcher: Watcher,
    /// CRIU's files, where they are in memory.
    memory: Option<Arc<Memory>>,
    workers: Vec<JoinHandle<()>>,
    disk: Option<Disk>,
}

/// Workers' pieces are at most this long: long enough that taking one and
/// punching its hole don't show, short enough that the last one is not waited
/// for.
const PIECE: u64 = 2 << 20;

/// How many pieces per worker may be in memory: pieces take different times,
/// and a worker that the scheduler left waiting holds up what comes after it.
const AHEAD: usize = 8;

impl Follower {
    /// Begins to follow: page images that are in `dir` now, and those that come.
    ///
    /// # Errors
    /// The directory can't be watched, or no thread be started.
    pub fn start(dir: &Path, options: Options, observer: Arc<Observer>) -> Result<Self, Error> {
        let memory = match options.compression {
            // They stay where CRIU writes them.
            Compression::None => None,
            Compression::Zstd { .. } => options
                .expected
                .and_then(|expected| Memory::for_images(dir, expected))
                .map(Arc::new),
        };
        Self::with(dir, options, memory, observer)
    }

    fn with(
        dir: &Path,
        options: Options,
        mut memory: Option<Arc<Memory>>,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // So much that the kernel would begin to write it anyway.
        let flush = options.flush || memory.is_some();
        // With little memory all of it is for the workers.
        let direct = flush && options.memory >= 4 * disk::MEMORY;
        let buffers = options.memory - if direct { disk::MEMORY } else { 0 };
        let disk = match flush {
            true => Some(Disk::start(direct).map_err(Error::Start)?),
            false => None,
        };
        let shared = Arc::new(Shared::new(
            dir,
            options.compression,
            Share::of(buffers, cores),
            disk.as_ref().map(Disk::queue),
            observer,
        ));
        let mut watcher = Watcher::start(dir, memory.clone(), &shared);
        if watcher.is_err() && memory.take().is_some() {
            // There may be no more watches for so many files.
            watcher = Watcher::start(dir, None, &shared);
        }
        let watcher = watcher?;
        let mut follower = Self {
            shared,
            watcher,
            memory,
            workers: Vec::new(),
            disk,
        };
        follower.employ(true)?;
        Ok(follower)
    }

    /// CRIU has written everything: stores what remains, on all cores, and
    /// removes CRIU's files. The stored ones are yet to be synced.
    ///
    /// # Errors
    /// What first went wrong, from the beginning on.
    pub fn finish(mut self) -> Result<Followed, Error> {
        self.watcher.end();
        if !self.shared.hurry(sys::priority()) {
            self.employ(false)?;
        }
        self.shared.tell();
        self.join();
        // What the disk met is why others failed.
        self.disk.take().map_or(Ok(()), Disk::join)?;
        let followed = self.shared.take();
        self.memory = None;
        followed
    }

    fn employ(&mut self, low: bool) -> Result<(), Error> {
        for _ in 0..self.shared.workers() {
            let shared = Arc::clone(&self.shared);
            let worker = thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || work::work(&shared, low))
                .map_err(Error::Start)?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A worker that panicked ends the process (release) or has left its
            // file unfinished, which `take` finds.
            let _ = worker.join();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop();
        self.watcher.end();
        self.join();
        if let Some(disk) = self.disk.take() {
            // Whatever it met: nobody wants it any more.
            let _ = disk.join();
        }
    }
}

/// What of the memory setting is for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    workers: usize,
    /// The most raw bytes of a piece; frames are not split.
    piece: u64,
    /// The most pieces that are being stored or wait for their turn.
    in_memory: usize,
}

impl Share {
    /// A worker has a piece raw, and of each piece in memory there is what is
    /// stored of it, which may be as long.
    fn of(memory: u64, cores: usize) -> Self {
        let frame = u64::from(FRAME);
        let frames = memory / frame;
        let workers = usize::try_from(frames / 2).unwrap_or(cores).clamp(1, cores);
        let piece = (frames / (2 * workers as u64)).clamp(1, PIECE / frame) * frame;
        let pieces = usize::try_from(memory / piece).unwrap_or(usize::MAX);
        Self {
            workers,
            piece,
            in_memory: (pieces - workers.min(pieces)).clamp(workers, AHEAD * workers),
        }
    }
}

/// The name of what a page image is stored as.
fn stored_name(name: &str, compression: Compression) -> (String, Kind) {
    match compression {
        Compression::None => (name.to_owned(), Kind::Plain),
        Compression::Zstd { .. } => (format!("{name}.zst"), Kind::Pages),
    }
}

#[cfg(test)]
mod tests;
