//! Prefetch: gives memory before a process touches it.
//!
//! Threads take one frame after another: first the pages that an earlier restore
//! missed ([`Touches`]), then the frames after the last faults, then the rest of each
//! address space in turn, in the order of addresses. A thread decodes its frame at the
//! lowest priority and holds no lock meanwhile. The settings limit the number of
//! threads; while a checkpoint waits for complete memory, there is one per processor
//! ([`Prefetch::hurry`]).
//!
//! A child that was forked while memory was missing shares with its parent the pages
//! that were resident then. Each page that it gets later is a copy of its own, where an
//! eager restore has one for both. So a child gets the pages that it touches, and the
//! rest only when a checkpoint needs it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Failure;
use super::pending::{Frame, Piece};
use super::space::{Given, Space};
use super::touches::{BLOCK, Touches};
use crate::format::pages::{Decoder, Reader};
use crate::sys;

/// The number of recent faults that are kept.
const HINTS: usize = 32;

/// Pause between two attempts while an event is unread, which takes microseconds.
const BUSY: Duration = Duration::from_micros(200);

/// Pause between two attempts while there is no memory, and the number of attempts.
pub(super) const NO_ROOM: Duration = Duration::from_millis(20);
pub(super) const ATTEMPTS: u32 = 500;

#[derive(Default)]
struct Queue {
    spaces: Vec<Arc<Space>>,
    /// Children that were forked since the restore. They are prefetched only while a
    /// checkpoint waits.
    forked: Vec<Arc<Space>>,
    /// Processes and addresses.
    expected: VecDeque<(i32, u64)>,
    hints: VecDeque<(Arc<Space>, u64)>,
    /// The address space whose turn it is.
    turn: usize,
    begun: bool,
    ended: bool,
    failure: Option<Failure>,
}

/// A frame to decode, and its address space.
struct Task {
    space: Arc<Space>,
    frame: Frame,
    pieces: Vec<Piece>,
    /// Whether an earlier restore missed it.
    is_expected: bool,
}

impl Task {
    fn claim(
        space: &Arc<Space>,
        within: Option<Range<u64>>,
        frame_at: impl Fn(u32, u64) -> (u64, Range<u64>),
    ) -> Option<Self> {
        let (frame, pieces) = space.claim(within, frame_at)?;
        Some(Self {
            space: space.clone(),
            frame,
            pieces,
            is_expected: false,
        })
    }
}

impl Queue {
    fn expected(&mut self, frame_at: impl Fn(u32, u64) -> (u64, Range<u64>)) -> Option<Task> {
        while let Some((pid, address)) = self.expected.pop_front() {
            let block = address..address.saturating_add(BLOCK);
            let mut spaces = self.spaces.iter();
            let space = spaces.find(|space| space.pid() == Some(pid));
            let task = space.and_then(|space| Task::claim(space, Some(block), &frame_at));
            if let Some(task) = task {
                return Some(Task {
                    is_expected: true,
                    ..task
                });
            }
        }
        None
    }

    fn hinted(&mut self, frame_at: impl Fn(u32, u64) -> (u64, Range<u64>)) -> Option<Task> {
        while let Some((space, address)) = self.hints.pop_back() {
            let task = Task::claim(&space, Some(address..u64::MAX), &frame_at);
            if task.is_some() {
                return task;
            }
        }
        None
    }

    fn in_turn(&mut self, frame_at: impl Fn(u32, u64) -> (u64, Range<u64>)) -> Option<Task> {
        (0..self.spaces.len()).find_map(|_| {
            self.turn = (self.turn + 1) % self.spaces.len();
            Task::claim(&self.spaces[self.turn], None, &frame_at)
        })
    }
}

/// The state that the threads share with the source.
pub(super) struct Shared {
    pub(super) files: Vec<Arc<Reader>>,
    queue: Mutex<Queue>,
    /// There may be work, or the threads must exit.
    work: Condvar,
    /// Wakes the source when a space is done or a thread has failed.
    pub(super) news: EventFd,
    pub(super) given: AtomicU64,
    /// The part of `given` that an earlier restore missed.
    pub(super) expected: AtomicU64,
    hurried: AtomicBool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number and the range of the frame with an offset in a file.
    pub(super) fn frame_at(&self, file: u32, offset: u64) -> (u64, Range<u64>) {
        let reader = &self.files[file as usize];
        let frame = reader.frame_at(offset);
        (frame as u64, reader.range(frame))
    }

    fn tell(&self) {
        // The counter can't overflow, because the source resets it.
        let _ = self.news.write(1);
    }

    fn fail(&self, failure: Failure) {
        self.queue().failure.get_or_insert(failure);
        self.tell();
    }

    /// Waits for the next frame to decode. `None` at the end.
    fn next(&self) -> Option<Task> {
        let frame_at = |file, offset| self.frame_at(file, offset);
        let mut queue = self.queue();
        loop {
            if queue.ended {
                return None;
            }
            if queue.begun {
                let task = queue.expected(frame_at);
                let task = task.or_else(|| queue.hinted(frame_at));
                if let Some(task) = task.or_else(|| queue.in_turn(frame_at)) {
                    return Some(task);
                }
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        sys::lower_disk_priority();
        let thread = sys::thread_id();
        let usual = sys::priority();
        let mut decoder = Decoder::default();
        let mut bytes = Vec::new();
        while let Some(task) = self.next() {
            // A thread that is preempted with a lock held delays page faults. So only
            // work without a lock runs at the lowest priority.
            if !self.hurried.load(Ordering::Relaxed) {
                sys::lower_priority();
            }
            let decoded = self.decode(task.frame, &mut decoder, &mut bytes);
            sys::raise_priority(thread, usual);
            let result = decoded.and_then(|()| self.give(&task, &bytes));
            task.space.release(task.frame);
            if let Err(failure) = result {
                return self.fail(failure);
            }
            if task.space.is_done() {
                self.tell();
            }
            // A thread that found every frame claimed looks again.
            self.work.notify_all();
        }
    }

    /// Decodes a frame and compares its digest.
    pub(super) fn decode(
        &self,
        frame: Frame,
        decoder: &mut Decoder,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let reader = &self.files[frame.file as usize];
        Ok(reader.decode(frame.number as usize, decoder, bytes)?)
    }

    /// The bytes of a piece of a decoded frame.
    pub(super) fn bytes_of<'a>(&self, frame: Frame, piece: Piece, bytes: &'a [u8]) -> &'a [u8] {
        let range = self.files[frame.file as usize].range(frame.number as usize);
        let start = (piece.offset - range.start) as usize;
        &bytes[start..start + (piece.end - piece.start) as usize]
    }

    fn give(&self, task: &Task, bytes: &[u8]) -> Result<(), Failure> {
        let mut attempts = 0;
        for &piece in &task.pieces {
            let bytes = self.bytes_of(task.frame, piece, bytes);
            loop {
                match task.space.give(task.frame.file, piece, bytes, true)? {
                    Given::Bytes(count) => {
                        self.given.fetch_add(count, Ordering::Relaxed);
                        if task.is_expected {
                            self.expected.fetch_add(count, Ordering::Relaxed);
                        }
                        break;
                    }
                    Given::Ended => return Ok(()),
                    Given::Busy => thread::sleep(BUSY),
                    Given::NoRoom => {
                        attempts += 1;
                        if attempts > ATTEMPTS {
                            return Err(Failure::NoRoom);
                        }
                        thread::sleep(NO_ROOM);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The prefetching threads. They end when this is dropped.
pub(super) struct Prefetch {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts threads, which wait for [`Self::begin`].
    pub(super) fn new(files: Vec<Arc<Reader>>, threads: usize) -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let mut prefetch = Self {
            shared: Arc::new(Shared {
                files,
                queue: Mutex::default(),
                work: Condvar::new(),
                news: EventFd::from_value_and_flags(0, flags)?,
                given: AtomicU64::new(0),
                expected: AtomicU64::new(0),
                hurried: AtomicBool::new(false),
            }),
            threads: Vec::new(),
        };
        prefetch.grow(threads)?;
        Ok(prefetch)
    }

    fn grow(&mut self, threads: usize) -> std::io::Result<()> {
        while self.threads.len() < threads {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().spawn(move || shared.work())?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Prefetches these pages first.
    pub(super) fn expect(&self, touches: &Touches) {
        self.shared.queue().expected = touches.in_order().collect();
    }

    /// Starts to prefetch.
    pub(super) fn begin(&self) {
        self.shared.queue().begun = true;
        self.shared.work.notify_all();
    }

    /// Prefetches with one thread per processor, at the usual priority, because a
    /// checkpoint waits for complete memory.
    pub(super) fn hurry(&mut self) {
        self.shared.hurried.store(true, Ordering::Relaxed);
        let mut queue = self.shared.queue();
        let forked = std::mem::take(&mut queue.forked);
        queue.spaces.extend(forked);
        drop(queue);
        // An error is harmless: fewer threads finish, too.
        let _ = self.grow(thread::available_parallelism().map_or(1, usize::from));
        self.shared.work.notify_all();
    }

    pub(super) fn add(&self, space: Arc<Space>) {
        let mut queue = self.shared.queue();
        match space.is_forked() && !self.shared.hurried.load(Ordering::Relaxed) {
            true => queue.forked.push(space),
            false => queue.spaces.push(space),
        }
        self.shared.work.notify_all();
    }

    pub(super) fn remove(&self, space: &Arc<Space>) {
        let mut queue = self.shared.queue();
        queue.spaces.retain(|other| !Arc::ptr_eq(other, space));
        queue.forked.retain(|other| !Arc::ptr_eq(other, space));
        queue.hints.retain(|(other, _)| !Arc::ptr_eq(other, space));
    }

    /// Notes where a fault's neighbours end, because the process is likely to touch the
    /// following pages next.
    pub(super) fn hint(&self, space: Arc<Space>, address: u64) {
        let mut queue = self.shared.queue();
        if queue.hints.len() == HINTS {
            queue.hints.pop_front();
        }
        queue.hints.push_back((space, address));
        self.shared.work.notify_one();
    }

    /// Returns the failure of a thread.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.shared.queue().failure.take()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.queue().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // The thread returns nothing, and a panic has been printed.
            let _ = thread.join();
        }
    }
}
