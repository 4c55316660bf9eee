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
//! watcher: names and lengths of files, which are closed               ▼
//!                                               disk: past the page cache, early
//! ```
//!
//! **The watcher** ([`watch`]) waits for the directory's events and, while a
//! file grows, polls its length. **Workers** ([`work`]) take the next piece, a few
//! frames, of the first file that has one. The worker that completes the next
//! piece in order writes it, and the ready pieces after it. No worker waits for
//! another, unless the ready pieces use up the memory setting.
//! **The disk's thread** ([`disk`]) writes stored blocks to disk early.
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
//! If this process is killed, CRIU's file has holes and is useless, so CRIU writes
//! to a staging directory that is no checkpoint ([`crate::format::publish`]). If
//! CRIU fails, the caller drops the [`Capture`], which stops it, and removes the
//! directory with what was stored.

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

/// Options of a capture.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The form in which frames are stored.
    pub compression: Compression,
    /// Limit of the workers' buffers in bytes. There is always one worker with a
    /// buffer for one frame.
    pub memory: u64,
    /// Whether stored data is written to disk at once, because it will be synced. Page
    /// images in memory are large, so their stored data always is.
    pub flush: bool,
    /// The expected output of CRIU; `None` if unknown.
    pub expected: Option<Expected>,
}

/// The reason that page images could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// Its file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// zstd can't be set up.
    #[error("cannot compress: {0}")]
    Encoder(io::Error),
    /// CRIU wrote to a page image after closing it.
    #[error("{} has {found} bytes, of which {read} were stored: CRIU wrote to it after closing it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// Bytes that were stored.
        read: u64,
    },
    /// A thread or its pipe could not be created.
    #[error("cannot start storing page images: {0}")]
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

/// The stored page images of a directory.
#[derive(Debug)]
pub struct Captured {
    /// An entry for each stored file, including the tables of plain ones.
    pub files: Vec<Entry>,
    /// Bytes that CRIU wrote.
    pub raw_bytes: u64,
    /// Bytes of the stored files.
    pub stored_bytes: u64,
    /// False if the file system can't punch holes, so that CRIU's files and the
    /// stored ones took their full size at the same time.
    pub punched: bool,
}

/// Capture of the page images that CRIU writes to one directory. Dropping it stops it.
pub struct Capture {
    shared: Arc<Shared>,
    watcher: Watcher,
    /// CRIU's files; `None` if they are on disk.
    memory: Option<Arc<Memory>>,
    workers: Vec<JoinHandle<()>>,
    disk: Option<Disk>,
}

/// Maximum length of a worker's piece in bytes: long enough that taking it and
/// punching its hole cost little, short enough that the last one is stored quickly.
const PIECE: u64 = 2 << 20;

/// Number of pieces per worker that may be in memory. Pieces take different times,
/// and a worker that is not scheduled delays the writing of later pieces.
const AHEAD: usize = 8;

impl Capture {
    /// Starts storing page images: those that are in `dir`, and those that CRIU adds.
    ///
    /// # Errors
    /// The directory can't be watched, or no thread can be started.
    pub fn start(dir: &Path, options: Options, observer: Arc<Observer>) -> Result<Self, Error> {
        let memory = match options.compression {
            // The page images stay where CRIU writes them.
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
        // The stored data of page images in memory is so large that the kernel would
        // write it anyway.
        let flush = options.flush || memory.is_some();
        // With little memory the workers get all of it.
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
            // The limit of inotify watches may be reached.
            watcher = Watcher::start(dir, None, &shared);
        }
        let watcher = watcher?;
        let mut capture = Self {
            shared,
            watcher,
            memory,
            workers: Vec::new(),
            disk,
        };
        capture.start_workers(true)?;
        Ok(capture)
    }

    /// Stores the rest on all cores, once CRIU has exited, and removes CRIU's files. The
    /// caller syncs the stored ones.
    ///
    /// # Errors
    /// The first error since the start.
    pub fn finish(mut self) -> Result<Captured, Error> {
        self.watcher.end();
        if !self.shared.hurry(sys::priority()) {
            self.start_workers(false)?;
        }
        self.shared.report();
        self.join();
        // The disk's error comes first, because it makes workers fail.
        self.disk.take().map_or(Ok(()), Disk::join)?;
        let captured = self.shared.take();
        self.memory = None;
        captured
    }

    fn start_workers(&mut self, low: bool) -> Result<(), Error> {
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

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop();
        self.watcher.end();
        self.join();
        if let Some(disk) = self.disk.take() {
            // The capture is dropped, so the error has no reader.
            let _ = disk.join();
        }
    }
}

/// The division of the memory setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    workers: usize,
    /// Maximum number of raw bytes of a piece. Frames are not split.
    piece: u64,
    /// Maximum number of pieces that are being stored or wait for their turn.
    in_memory: usize,
}

impl Share {
    /// Divides the memory setting. A worker holds one raw piece, and each piece in
    /// memory has a stored form, which may be as long.
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

/// Name and kind of the file that a page image is stored as.
fn stored_name(name: &str, compression: Compression) -> (String, Kind) {
    match compression {
        Compression::None => (name.to_owned(), Kind::Plain),
        Compression::Zstd { .. } => (format!("{name}.zst"), Kind::Pages),
    }
}

#[cfg(test)]
mod tests;
