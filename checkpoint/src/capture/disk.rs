//! Writes stored frames to disk while the rest is still being compressed, which
//! shortens the sync at the end.
//!
//! A dedicated thread writes past the page cache (`O_DIRECT`), in large blocks. In
//! the page cache the data would be dirty, in addition to what CRIU has written.
//! With many dirty pages the kernel slows down every writer
//! (`balance_dirty_pages`), CRIU included, while the application is frozen. The
//! cost is a copy into an aligned buffer in place of one into the cache.
//!
//! If the file system has no `O_DIRECT`, the file is written as usual and the thread
//! makes the kernel start write-back early. That call blocks when the disk's queue
//! is full, so workers don't make it.
//!
//! This module syncs nothing: [`crate::format::publish`] syncs all files at the end,
//! at the cost of one commit of the file system's journal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::error::Error;
use crate::sys;

/// Length of a write: a disk needs long requests for its full speed.
const BLOCK: usize = 4 << 20;

/// Alignment of memory, offsets and lengths: a page, which is a multiple of
/// any disk's block.
const ALIGNED: usize = 4096;

/// Blocks that may wait for the disk. A worker with one more block waits.
const WAITING: usize = 3;

/// Number of files that may bypass the page cache at one time: that of the process
/// that CRIU is dumping, and an earlier one that is not stored yet. Each has a block
/// that is being filled.
const STREAMS: usize = 2;

/// Maximum size of all buffers in bytes: waiting blocks, the one being written, and
/// those being filled.
pub(super) const MEMORY: u64 = ((WAITING + 1 + STREAMS) * BLOCK) as u64;

/// Growth of a file, in bytes, after which its write-back is started again: small
/// enough that the disk never idles, large enough that its requests are long.
const BEGIN: u64 = 8 << 20;

/// The writing thread, with its result.
pub(super) struct Disk {
    queue: Queue,
    thread: JoinHandle<Result<(), Error>>,
}

/// The queue of jobs for the thread.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    /// Number of further files that may bypass the page cache.
    places: Arc<AtomicUsize>,
    /// Buffers for reuse.
    spare: Arc<Mutex<Vec<Buffer>>>,
}

enum Job {
    /// Start write-back of the page cache.
    Begin(Arc<File>),
    Write {
        file: Arc<File>,
        path: Arc<PathBuf>,
        buffer: Buffer,
        offset: u64,
        /// The file's length if this block is the last one.
        end: Option<u64>,
    },
    /// No more jobs follow.
    End,
}

impl Disk {
    /// Starts the thread. Without `direct` no buffers are used.
    pub(super) fn start(direct: bool) -> io::Result<Self> {
        let (jobs, todo) = sync_channel(WAITING);
        let queue = Queue {
            jobs,
            places: Arc::new(AtomicUsize::new(if direct { STREAMS } else { 0 })),
            spare: Arc::default(),
        };
        let spare = Arc::clone(&queue.spare);
        let thread = thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || work(&todo, &spare))?;
        Ok(Self { queue, thread })
    }

    pub(super) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Waits until all jobs are done. Remaining streams can't write any more.
    ///
    /// # Errors
    /// A write has failed; the first error is returned.
    pub(super) fn join(self) -> Result<(), Error> {
        // Fails if the thread has ended with an error, which it returns.
        let _ = self.queue.jobs.send(Job::End);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Start(io::Error::other("a thread ended too early"))),
        }
    }
}

fn work(jobs: &Receiver<Job>, spare: &Mutex<Vec<Buffer>>) -> Result<(), Error> {
    for job in jobs {
        match job {
            Job::End => break,
            Job::Begin(file) => sys::start_writing(&file),
            Job::Write {
                file,
                path,
                buffer,
                offset,
                end,
            } => {
                write(&file, &buffer, offset, end).map_err(|source| Error::File {
                    what: "write",
                    path: path.to_path_buf(),
                    source,
                })?;
                lock(spare).push(buffer);
            }
        }
    }
    Ok(())
}

fn write(file: &File, buffer: &Buffer, offset: u64, end: Option<u64>) -> io::Result<()> {
    let bytes = buffer.blocks();
    match file.write_all_at(bytes, offset) {
        // The disk requires another alignment.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            fcntl(file, FcntlArg::F_SETFL(OFlag::empty()))?;
            file.write_all_at(bytes, offset)?;
        }
        result => result?,
    }
    match end {
        Some(length) => file.set_len(length),
        None => Ok(()),
    }
}

impl Queue {
    /// Starts write-back of a file that is in the page cache.
    pub(super) fn begin(&self, file: Arc<File>) {
        // The call is a hint: a full queue keeps the disk busy anyway.
        let _ = self.jobs.try_send(Job::Begin(file));
    }

    /// A place among the files that bypass the page cache; `None` if the file system
    /// has no `O_DIRECT` or all places are taken.
    fn place(&self, file: &File) -> Option<Place> {
        let fewer = |places: usize| places.checked_sub(1);
        self.places.fetch_update(Relaxed, Relaxed, fewer).ok()?;
        let place = Place(Arc::clone(&self.places));
        goes_past_cache(file).then_some(place)
    }

    fn buffer(&self) -> Buffer {
        match lock(&self.spare).pop() {
            Some(buffer) => Buffer {
                length: 0,
                ..buffer
            },
            None => Buffer::new(),
        }
    }
}

/// A new file that is written from its beginning to its end.
pub(super) struct Stream {
    file: Arc<File>,
    path: Arc<PathBuf>,
    queue: Option<Queue>,
    way: Way,
}

enum Way {
    Cached {
        /// Bytes written since write-back was last started.
        unbegun: u64,
    },
    Direct {
        buffer: Buffer,
        /// The buffer's offset in the file.
        offset: u64,
        _place: Place,
    },
}

/// A file's place among those that bypass the page cache.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Stream {
    /// Creates the file. With a queue it is written to disk early.
    pub(super) fn create(path: &Path, queue: Option<Queue>) -> io::Result<Self> {
        Ok(Self::over(Arc::new(create(path)?), path, queue))
    }

    /// Writes to an empty file. With a queue it is written to disk early.
    pub(super) fn over(file: Arc<File>, path: &Path, queue: Option<Queue>) -> Self {
        let place = queue.as_ref().and_then(|queue| queue.place(&file));
        let way = match (&queue, place) {
            (Some(queue), Some(place)) => Way::Direct {
                buffer: queue.buffer(),
                offset: 0,
                _place: place,
            },
            _ => Way::Cached { unbegun: 0 },
        };
        Self {
            file,
            path: Arc::new(path.to_owned()),
            queue,
            way,
        }
    }

    /// Queues the last block.
    pub(super) fn end(self) -> io::Result<()> {
        let Some(queue) = self.queue else {
            return Ok(());
        };
        match self.way {
            Way::Cached { .. } => queue.begin(self.file),
            Way::Direct { buffer, offset, .. } => {
                let end = Some(offset + buffer.length as u64);
                send(&queue, &self.file, &self.path, buffer, offset, end)?;
            }
        }
        Ok(())
    }
}

/// Sets `O_DIRECT` on a file; false if it can't be. (Opening with the flag may fail
/// after creating the file.)
fn goes_past_cache(file: &File) -> bool {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_DIRECT)).is_ok()
}

fn send(
    queue: &Queue,
    file: &Arc<File>,
    path: &Arc<PathBuf>,
    buffer: Buffer,
    offset: u64,
    end: Option<u64>,
) -> io::Result<()> {
    let job = Job::Write {
        file: Arc::clone(file),
        path: Arc::clone(path),
        buffer,
        offset,
        end,
    };
    // `join` returns the thread's own error.
    let ended = |_| io::Error::other("the disk's thread has ended");
    queue.jobs.send(job).map_err(ended)
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (&mut self.way, &self.queue) {
            (Way::Direct { buffer, offset, .. }, Some(queue)) => {
                let taken = buffer.take(bytes);
                if buffer.length == BLOCK {
                    let full = std::mem::replace(buffer, queue.buffer());
                    send(queue, &self.file, &self.path, full, *offset, None)?;
                    *offset += BLOCK as u64;
                }
                Ok(taken)
            }
            (Way::Cached { unbegun }, Some(queue)) => {
                let taken = (&*self.file).write(bytes)?;
                *unbegun += taken as u64;
                if *unbegun >= BEGIN {
                    *unbegun = 0;
                    queue.begin(Arc::clone(&self.file));
                }
                Ok(taken)
            }
            (_, None) => (&*self.file).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An aligned buffer for one block.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; BLOCK + ALIGNED];
        Self {
            // For bytes the offset always exists, and is below the alignment.
            start: memory.as_ptr().align_offset(ALIGNED).min(ALIGNED),
            memory,
            length: 0,
        }
    }

    /// Copies as many bytes as fit and returns their number.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK - self.length);
        let at = self.start + self.length;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        taken
    }

    /// The contents, up to the end of the last page.
    fn blocks(&self) -> &[u8] {
        &self.memory[self.start..][..self.length.next_multiple_of(ALIGNED)]
    }
}

fn lock(spare: &Mutex<Vec<Buffer>>) -> MutexGuard<'_, Vec<Buffer>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a file of mode 0600, like all files of a checkpoint.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
