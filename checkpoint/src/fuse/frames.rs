//! Decodes frames ahead of the reads.
//!
//! ```text
//! read ──► wanted frames: ready? use. else decode here, or wait for its decoder
//!     └──► the frames after them: queued ──► workers decode ──► ready
//! ```
//!
//! CRIU reads each page file once and in ascending order, one process per file.
//! So a frame that was read to its end is dropped, and what is kept is what
//! comes next. The memory for frames is bounded: a reader gets its frames in
//! any case, the rest is shared out among the files being read, and before the
//! first is, goes to the files in their order: until CRIU has come so far, the
//! processors have little else to do. A frame that
//! was decoded ahead and is not read after all makes room when it is the oldest.
//! Buffers are used again, which spares the kernel the zeroing of fresh pages.
//!
//! No thread waits for a worker that waits: a frame that is being decoded is
//! finished without any lock. A worker that panics takes the process along
//! (release builds abort), and with it the mount.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::format::pages::{Damage, Decoder, Reader};

/// The most that is decoded ahead of one reader. Memory that compresses well
/// takes longer to decode than to read, other memory does not: the store bridges
/// the one with the time left by the other. (Of 1 GiB that changes every 16 MiB,
/// read by one thread on two processors: 1.48 s with 8 MiB ahead, 1.38 with 16,
/// 1.18 with 32, 1.13 with 64.)
const AHEAD: u64 = 64 << 20;

/// A frame of a file, by their numbers.
type Key = (usize, usize);

/// A decoded frame. Its buffer goes back to where it came from.
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
        /// When it was decoded.
        age: u64,
    },
    Failed(Arc<Damage>),
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Bytes that the slots stand for.
    held: u64,
    /// What workers do next. A frame in here that is not `Queued` any more was
    /// taken by a reader.
    queue: VecDeque<Key>,
    /// How often each file is open.
    open: HashMap<usize, usize>,
    clock: u64,
    closed: bool,
}

/// The frames of several page files.
pub(super) struct Frames {
    files: Vec<Reader>,
    memory: u64,
    state: Mutex<State>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    /// There is something in the queue, or the end has come.
    work: Condvar,
    /// A frame is ready, or has failed.
    done: Condvar,
}

impl Frames {
    /// Frames of these files, in no more memory than this and what is being read
    /// at a moment.
    pub(super) fn new(files: Vec<Reader>, memory: u64) -> Self {
        Self {
            files,
            memory,
            state: Mutex::default(),
            free: Arc::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// The files.
    pub(super) fn files(&self) -> &[Reader] {
        &self.files
    }

    /// Begins to decode, before anyone reads.
    pub(super) fn begin(&self) {
        let mut state = lock(&self.state);
        for file in 0..self.files.len() {
            self.queue(&mut state, file, 0, self.memory);
        }
    }

    /// Decodes what is queued, until [`Self::close`]. To be called in as many
    /// threads as there are processors.
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

    /// Says that a file is about to be read.
    pub(super) fn open(&self, file: usize) {
        let mut state = lock(&self.state);
        *state.open.entry(file).or_default() += 1;
        self.queue_ahead(&mut state, file, 0);
    }

    /// Says that it is not read any more.
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
                    *held -= self.size(file);
                }
                keep
            });
        }
        if state.open.is_empty() {
            // The next read may be far off.
            lock(&self.free).clear();
        }
    }

    /// The frames in which the bytes of a file from `offset` to `end` are.
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
        let size = self.size(file);
        // There are fewer frames than a u32 counts.
        let first = (offset / size) as usize;
        let last = end.div_ceil(size) as usize;
        let mut state = lock(&self.state);
        self.queue_ahead(&mut state, file, last);
        let mut frames = Vec::with_capacity(last - first);
        for number in first..last {
            let key = (file, number);
            let frame = loop {
                match state.slots.get_mut(&key) {
                    Some(Slot::Ready { frame, read, .. }) => {
                        let start = number as u64 * size;
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
            state.held += self.size(key.0);
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

    /// Queues what comes next of a file that is being read.
    fn queue_ahead(&self, state: &mut State, file: usize, first: usize) {
        let share = self.memory / state.open.len().max(1) as u64;
        self.queue(state, file, first, share.min(AHEAD));
    }

    /// Queues the frames of a file from `first` on, up to this number of bytes.
    fn queue(&self, state: &mut State, file: usize, first: usize, bytes: u64) {
        let size = self.size(file);
        let end = first.saturating_add((bytes / size) as usize);
        let before = state.queue.len();
        for number in first..end.min(self.files[file].table().frames()) {
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

    /// Makes room; not if everything is still to come.
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
            state.held -= self.size(key.0);
        }
    }

    /// The bytes of a file's frames, the last of which may have fewer.
    fn size(&self, file: usize) -> u64 {
        u64::from(self.files[file].table().frame_size())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
