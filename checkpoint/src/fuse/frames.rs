//! Decodes frames of page files ahead of CRIU's reads.
//!
//! ```text
//! read ──► wanted frames: ready? use. else decode here, or wait for its decoder
//!     └──► the frames after them: queued ──► workers decode ──► ready
//! ```
//!
//! CRIU reads each page file once and in ascending order, one process per file. So a
//! frame that was read to its end is dropped, and the frames after it are kept. The
//! memory for frames is limited: a reader always gets its frames, and the open files
//! share the rest equally. Before the first file is opened, frames are decoded in the
//! order of the files, because the processors are nearly idle until CRIU reads memory.
//! If memory is short, the oldest frame that was decoded ahead is dropped. Buffers are
//! reused, because the kernel would have to zero new pages.
//!
//! A worker decodes without a lock and waits for no thread, so a reader that waits for
//! it continues. If a worker panics, the process aborts (in release builds), and the
//! kernel removes the mount.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::format::pages::{Damage, Decoder, Reader};

/// Maximum number of bytes that are decoded ahead of one reader. Memory that compresses
/// well takes longer to decode than CRIU takes to read it, other memory does not, and
/// frames that are decoded ahead balance the two. (1 GiB of memory that alternates every
/// 16 MiB, read by one thread on two processors, took 1.48 s with 8 MiB ahead, 1.38 s
/// with 16, 1.18 s with 32, 1.13 s with 64.)
const AHEAD: u64 = 64 << 20;

/// The numbers of a file and of a frame in it.
type Key = (usize, usize);

/// A decoded frame. Dropping it returns its buffer for reuse.
pub(super) struct Frame {
    bytes: Vec<u8>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        lock(&self.free).push(std::mem::take(&mut self.bytes));
    }
}

enum Slot {
    Queued,
    Decoding,
    Ready {
        frame: Arc<Frame>,
        /// Bytes that were read.
        read: usize,
        /// The order in which frames were decoded.
        age: u64,
    },
    Failed(Arc<Damage>),
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Bytes of the frames in all slots.
    held: u64,
    /// Frames for the workers. A reader may already have decoded one, whose slot is then
    /// not `Queued`.
    queue: VecDeque<Key>,
    /// Number of opens of each file.
    open: HashMap<usize, usize>,
    clock: u64,
    closed: bool,
}

/// The frames of several page files.
pub(super) struct Frames {
    files: Vec<Arc<Reader>>,
    memory: u64,
    state: Mutex<State>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    /// A frame was queued, or workers must exit.
    work: Condvar,
    /// A frame is ready, or has failed.
    done: Condvar,
}

impl Frames {
    /// Creates the frames of these files. They take up to `memory` bytes, and in addition
    /// the frames that are being read.
    pub(super) fn new(files: Vec<Arc<Reader>>, memory: u64) -> Self {
        Self {
            files,
            memory,
            state: Mutex::default(),
            free: Arc::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// Returns the files.
    pub(super) fn files(&self) -> &[Arc<Reader>] {
        &self.files
    }

    /// Queues the first frames, before a file is opened.
    pub(super) fn begin(&self) {
        let mut state = lock(&self.state);
        for file in 0..self.files.len() {
            self.queue(&mut state, file, 0, self.memory);
        }
    }

    /// Runs a worker, which decodes queued frames until [`Self::close`]. There is one per
    /// processor.
    pub(super) fn work(&self) {
        let mut decoder = Decoder::default();
        let mut state = lock(&self.state);
        while !state.closed {
            let Some(key) = state.queue.pop_front() else {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if !matches!(state.slots.get(&key), Some(Slot::Queued)) {
                continue;
            }
            state = self.decode(state, key, &mut decoder);
        }
    }

    /// Ends the workers.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }

    /// Records that a file was opened, and queues its first frames.
    pub(super) fn open(&self, file: usize) {
        let mut state = lock(&self.state);
        *state.open.entry(file).or_default() += 1;
        self.queue_ahead(&mut state, file, 0);
    }

    /// Records that a file was closed, and drops its frames.
    pub(super) fn release(&self, file: usize) {
        let mut state = lock(&self.state);
        let Some(count) = state.open.get_mut(&file) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            state.open.remove(&file);
            let State { slots, held, .. } = &mut *state;
            slots.retain(|key, slot| {
                let keep = key.0 != file || matches!(slot, Slot::Decoding);
                if !keep {
                    *held -= self.size(*key);
                }
                keep
            });
        }
        if state.open.is_empty() {
            // No file is open, so the buffers may be unused for long.
            lock(&self.free).clear();
        }
    }

    /// Returns the frames with the bytes of a file from `offset` to `end`, at least one
    /// byte, none of them beyond its end.
    ///
    /// # Errors
    /// One of them is damaged or can't be read.
    pub(super) fn get(
        &self,
        file: usize,
        offset: u64,
        end: u64,
        decoder: &mut Decoder,
    ) -> Result<Vec<Arc<Frame>>, Arc<Damage>> {
        let reader = &self.files[file];
        let first = reader.frame_at(offset);
        let last = reader.frame_at(end - 1) + 1;
        let mut state = lock(&self.state);
        self.queue_ahead(&mut state, file, last);
        let mut frames = Vec::with_capacity(last - first);
        for number in first..last {
            let key = (file, number);
            let frame = loop {
                match state.slots.get_mut(&key) {
                    Some(Slot::Ready { frame, read, .. }) => {
                        let start = reader.range(number).start;
                        let here = end.min(start + frame.len() as u64) - offset.max(start);
                        *read += here as usize;
                        let frame = frame.clone();
                        if *read >= frame.len() {
                            self.remove(&mut state, key);
                        }
                        break frame;
                    }
                    Some(Slot::Failed(damage)) => return Err(damage.clone()),
                    Some(Slot::Decoding) => {
                        state = self
                            .done
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                    Some(Slot::Queued) | None => state = self.decode(state, key, decoder),
                }
            };
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Decodes a frame that no thread is decoding.
    fn decode<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        key: Key,
        decoder: &mut Decoder,
    ) -> MutexGuard<'a, State> {
        if state.slots.insert(key, Slot::Decoding).is_none() {
            state.held += self.size(key);
        }
        drop(state);
        let mut bytes = lock(&self.free).pop().unwrap_or_default();
        let result = self.files[key.0].decode(key.1, decoder, &mut bytes);
        let frame = Arc::new(Frame {
            bytes,
            free: self.free.clone(),
        });
        let mut state = lock(&self.state);
        state.clock += 1;
        let age = state.clock;
        let slot = match result {
            Ok(()) => Slot::Ready {
                frame,
                read: 0,
                age,
            },
            Err(damage) => Slot::Failed(Arc::new(damage)),
        };
        state.slots.insert(key, slot);
        self.done.notify_all();
        state
    }

    /// Queues the next frames of an open file.
    fn queue_ahead(&self, state: &mut State, file: usize, first: usize) {
        let share = self.memory / state.open.len().max(1) as u64;
        self.queue(state, file, first, share.min(AHEAD));
    }

    /// Queues the frames of a file from `first` on, up to this number of bytes.
    fn queue(&self, state: &mut State, file: usize, first: usize, bytes: u64) {
        let before = state.queue.len();
        let mut left = bytes;
        for number in first..self.files[file].frames() {
            let size = self.size((file, number));
            let Some(rest) = left.checked_sub(size) else {
                break;
            };
            left = rest;
            if state.slots.contains_key(&(file, number)) {
                continue;
            }
            while state.held + size > self.memory && self.drop_oldest(state) {}
            if state.held + size > self.memory {
                break;
            }
            state.held += size;
            state.slots.insert((file, number), Slot::Queued);
            state.queue.push_back((file, number));
        }
        match state.queue.len() - before {
            0 => {}
            1 => self.work.notify_one(),
            _ => self.work.notify_all(),
        }
    }

    /// Drops the oldest decoded frame. False if no frame is decoded.
    fn drop_oldest(&self, state: &mut State) -> bool {
        let ready = state.slots.iter().filter_map(|(key, slot)| match slot {
            Slot::Ready { age, .. } => Some((*age, *key)),
            _ => None,
        });
        let oldest = ready.min();
        if let Some((_, key)) = oldest {
            self.remove(state, key);
        }
        oldest.is_some()
    }

    fn remove(&self, state: &mut State, key: Key) {
        if state.slots.remove(&key).is_some() {
            state.held -= self.size(key);
        }
    }

    /// Returns the size of a frame.
    fn size(&self, (file, number): Key) -> u64 {
        let range = self.files[file].range(number);
        range.end - range.start
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
