//! Getting what is stored to disk while the rest is still being compressed, so
//! that nothing is left to wait for when the checkpoint is synced.
//!
//! What is to last goes past the page cache (`O_DIRECT`), in large blocks, by a
//! thread that has nothing else to do. In the page cache it would be dirty, beside
//! all that CRIU has written and that waits for its turn; and a kernel with much
//! that is dirty slows down whoever makes more of it (`balance_dirty_pages`), CRIU
//! and us alike, while the application stands still. It costs a copy into an
//! aligned buffer in place of one into the cache.
//!
//! Where a file system can't do that, the file is written as usual, and the thread
//! has the kernel begin with the disk's part early: beginning to write blocks as
//! soon as the disk's queue is full, and a worker has better things to do then.
//!
//! Nothing is synced here: that is done for all files at once, in the end, at the
//! cost of one commit of the file system's journal ([`crate::format::publish`]).

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

use super::Error;
use crate::sys;

/// How much is written at once: a disk's full speed takes long requests.
const BLOCK: usize = 4 << 20;

/// What memory, offsets and lengths are aligned to: a page, which is a multiple of
/// any disk's block.
const ALIGNED: usize = 4096;

/// Blocks that may wait for the disk. Whoever has another waits with it.
const WAITING: usize = 3;

/// How many files may be written past the page cache at one time, each of which
/// has a block that is being filled: that of the process that CRIU is at, and
/// another that isn't stored yet.
const STREAMS: usize = 2;

/// What the buffers take at most, in bytes: blocks that wait, one that is written,
/// and those that are being filled.
pub(super) const MEMORY: u64 = ((WAITING + 1 + STREAMS) * BLOCK) as u64;

/// The kernel is told to begin with a file each time that this many bytes of it
/// are new: often enough that the disk never idles, seldom enough that its
/// requests are long.
const BEGIN: u64 = 8 << 20;

/// The thread, and what became of what it was given.
pub(super) struct Disk {
    queue: Queue,
    thread: JoinHandle<Result<(), Error>>,
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    /// How many more files may go past the page cache.
    places: Arc<AtomicUsize>,
    /// Buffers that are to be used again.
    spare: Arc<Mutex<Vec<Buffer>>>,
}

enum Job {
    /// Begin to write what is new in the page cache.
    Begin(Arc<File>),
    Write {
        file: Arc<File>,
        path: Arc<PathBuf>,
        buffer: Buffer,
        offset: u64,
        /// It is the last one: the file's length.
        end: Option<u64>,
    },
    /// There won't be another.
    End,
}

impl Disk {
    /// Starts it. Without `direct` there is no memory for buffers.
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

    /// Waits until all of it is done. The streams that are left can't write any
    /// more.
    ///
    /// # Errors
    /// The first thing that the disk didn't take.
    pub(super) fn join(self) -> Result<(), Error> {
        // Nobody is there after an error, which is what the thread returns.
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
        // A disk with other ideas of what is aligned.
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
    /// Has the kernel begin to write what is new of a file in the page cache.
    pub(super) fn begin(&self, file: Arc<File>) {
        // A hint: where one is waiting there is enough to do.
        let _ = self.jobs.try_send(Job::Begin(file));
    }

    /// A place among the files that go past the page cache, if this one can and
    /// there is one left.
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
        /// Bytes since the disk was last given something to do.
        unbegun: u64,
    },
    Direct {
        buffer: Buffer,
        /// Where the buffer goes.
        offset: u64,
        _place: Place,
    },
}

/// A file's place among those that go past the page cache.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Stream {
    /// Makes the file; with a queue it goes to disk as fast as it can.
    pub(super) fn create(path: &Path, queue: Option<Queue>) -> io::Result<Self> {
        let file = create(path)?;
        let place = queue.as_ref().and_then(|queue| queue.place(&file));
        let way = match (&queue, place) {
            (Some(queue), Some(place)) => Way::Direct {
                buffer: queue.buffer(),
                offset: 0,
                _place: place,
            },
            _ => Way::Cached { unbegun: 0 },
        };
        Ok(Self {
            file: Arc::new(file),
            path: Arc::new(path.to_owned()),
            queue,
            way,
        })
    }

    /// All is written: gives the last of it to the disk.
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

/// Whether a file can be written past the page cache, which it is from now on.
/// (An open with the flag that fails may have made the file.)
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
    // What it met is what is told in the end.
    let gone = |_| io::Error::other("the disk took no more");
    queue.jobs.send(job).map_err(gone)
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

/// Room for a block, aligned.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0; BLOCK + ALIGNED];
        Self {
            // As bytes the offset always exists, and is below the alignment.
            start: memory.as_ptr().align_offset(ALIGNED).min(ALIGNED),
            memory,
            length: 0,
        }
    }

    /// Takes as many bytes as there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK - self.length);
        let at = self.start + self.length;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        taken
    }

    /// What is in it, up to the end of its last page.
    fn blocks(&self) -> &[u8] {
        &self.memory[self.start..][..self.length.next_multiple_of(ALIGNED)]
    }
}

fn lock(spare: &Mutex<Vec<Buffer>>) -> MutexGuard<'_, Vec<Buffer>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a file that is for root alone, as all of a checkpoint is.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
