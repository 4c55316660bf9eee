//! The state of a capture: its page images, their pieces and the workers.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cedana_store::session::Session;

use crate::format::manifest::Entry;
use crate::format::pages::Compression;
use crate::progress::{Observer, Phase, Progress};
use crate::sys;

use super::archive::{ArchiveWriter, Tar, Turns};
use super::chunks;
use super::disk::Queue;
use super::error::{Error, at};
use super::options::Share;
use super::page_file::{PageFile, Ready, Stored};

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
    /// The archive that the page images are in, for the other files.
    pub archive: Option<ArchiveWriter>,
    /// The store that the memory is in, which has yet to be told of the checkpoint.
    pub session: Option<Arc<Session>>,
}

/// State that workers, watcher and [`super::Capture`] share.
pub(super) struct Shared {
    dir: PathBuf,
    pub(super) compression: Compression,
    share: Share,
    state: Mutex<State>,
    /// A piece may be available, or no more pieces will be.
    changed: Condvar,
    observer: Arc<Observer>,
    /// The archive, if the frames go into one.
    pub(super) archive: Option<Mutex<Turns>>,
    /// The store, if the memory goes there.
    pub(super) session: Option<Arc<Session>>,
    /// Jobs for the disk's thread; `None` if files are not flushed.
    pub(super) queue: Option<Queue>,
    raw: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) punches: AtomicBool,
}

struct State {
    /// Files with pieces left, in the order in which CRIU created them.
    waiting: VecDeque<Waiting>,
    /// Files that are stored.
    finished: Vec<Stored>,
    /// Number of files that are waiting, or whose last piece is being stored.
    unfinished: usize,
    /// Number of files of which a piece was taken.
    opened: usize,
    /// Number of pieces that are taken and not yet written.
    in_memory: usize,
    /// Buffers for reuse.
    spare: Vec<Vec<u8>>,
    /// Whether the watcher has seen all files.
    complete: bool,
    /// Whether CRIU has exited, after which workers have the usual priority.
    hurried: bool,
    /// Workers of low priority, by thread id.
    low: Vec<i32>,
    /// Whether workers of low priority must exit, because others replace them.
    replaced: bool,
    stopped: bool,
    failed: Option<Error>,
}

/// A page image with pieces left.
struct Waiting {
    name: String,
    length: u64,
    taken: u64,
    closed: bool,
    /// Whether a worker decides where the taken piece ends ([`super::chunks`]).
    cutting: bool,
    file: Option<Arc<PageFile>>,
}

/// A few frames to store.
pub(super) struct Piece {
    pub(super) file: Arc<PageFile>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) last: bool,
}

impl Shared {
    pub(super) fn new(
        dir: &Path,
        compression: Compression,
        share: Share,
        queue: Option<Queue>,
        (archive, session): (Option<Tar>, Option<Arc<Session>>),
        observer: Arc<Observer>,
    ) -> Self {
        Self {
            session,
            dir: dir.to_owned(),
            compression,
            share,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                finished: Vec::new(),
                unfinished: 0,
                opened: 0,
                in_memory: 0,
                spare: Vec::new(),
                complete: false,
                hurried: false,
                low: Vec::new(),
                replaced: false,
                stopped: false,
                failed: None,
            }),
            changed: Condvar::new(),
            observer,
            archive: archive.map(|tar| {
                Mutex::new(Turns {
                    tar: Some(tar),
                    turn: 0,
                    opened: BTreeMap::new(),
                })
            }),
            queue,
            raw: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            punches: AtomicBool::new(true),
        }
    }

    /// Ignores poisoning: a worker that panicked is found by its unfinished file.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether stored bytes are another copy than CRIU's file.
    pub(super) fn copies(&self) -> bool {
        self.compression != Compression::None || self.is_archive() || self.session.is_some()
    }

    pub(super) fn is_archive(&self) -> bool {
        self.archive.is_some()
    }

    pub(super) fn queue(&self) -> Option<Queue> {
        self.queue.clone()
    }

    pub(super) fn workers(&self) -> usize {
        self.share.workers
    }

    /// Adds a page image that CRIU has created.
    pub(super) fn add(&self, name: &str) {
        let mut state = self.state();
        state.unfinished += 1;
        state.waiting.push_back(Waiting {
            name: name.to_owned(),
            length: 0,
            taken: 0,
            closed: false,
            cutting: false,
            file: None,
        });
    }

    /// Sets the current length of a page image, and whether CRIU has closed it.
    pub(super) fn grown(&self, name: &str, length: u64, closed: bool) {
        let mut state = self.state();
        let Some(file) = state.waiting.iter_mut().find(|file| file.name == name) else {
            return;
        };
        self.raw
            .fetch_add(length.saturating_sub(file.length), Relaxed);
        file.length = file.length.max(length);
        file.closed |= closed;
        if self.is_ready(file) {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Marks the list of page images as complete.
    pub(super) fn all_known(&self) {
        self.state().complete = true;
        self.changed.notify_all();
    }

    /// Gives the workers the priority `nice`. False if that is not allowed: then
    /// each exits after its piece, and new ones must be started.
    pub(super) fn hurry(&self, nice: i32) -> bool {
        let mut state = self.state();
        state.hurried = true;
        let low = std::mem::take(&mut state.low);
        let raised = low
            .into_iter()
            .all(|thread| sys::raise_priority(thread, nice));
        state.replaced = !raised;
        drop(state);
        self.changed.notify_all();
        raised
    }

    /// Registers a worker: at low priority if CRIU is still running. Digests alone
    /// take little, and low priority would only delay them until CRIU has exited.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        if !state.hurried && self.copies() {
            state.low.push(sys::thread_id());
            sys::lower_priority();
        }
    }

    /// Unregisters a worker, whose thread ID may be reused.
    pub(super) fn end(&self) {
        let thread = sys::thread_id();
        self.state().low.retain(|low| *low != thread);
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    pub(super) fn fail(&self, error: Error) {
        self.state().failed.get_or_insert(error);
        self.stop();
    }

    /// Removes CRIU's files and returns the stored ones. All workers must have ended.
    pub(super) fn take(&self) -> Result<Captured, Error> {
        let mut state = self.state();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.unfinished > 0 {
            return Err(Error::Start(io::Error::other("a thread ended too early")));
        }
        let mut captured = Captured {
            files: Vec::new(),
            raw_bytes: 0,
            stored_bytes: 0,
            punched: self.punches.load(Relaxed),
            archive: None,
            session: self.session.clone(),
        };
        for file in state.finished.drain(..) {
            let path = file.raw_path.clone();
            let found = fs::metadata(&path).map_err(at("read", &path))?.len();
            if found != file.raw_bytes {
                return Err(Error::Changed {
                    path,
                    found,
                    read: file.raw_bytes,
                });
            }
            if self.copies() {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
            captured.raw_bytes += file.raw_bytes;
            captured.stored_bytes += file.stored_bytes;
            if let (Some(session), Some(parts)) = (&self.session, &file.parts) {
                let list = file.write_list(session, parts)?;
                captured.stored_bytes += list.size;
                captured.files.push(list);
            }
            captured.files.extend(file.entries);
        }
        Ok(captured)
    }

    /// Waits for the next piece; `None` if this worker must exit.
    pub(super) fn next(&self, low: bool) -> Option<Piece> {
        let mut state = self.state();
        loop {
            if state.stopped || (low && state.replaced) {
                return None;
            }
            let ready = |file: &Waiting| self.is_ready(file);
            let room = state.in_memory < self.share.in_memory;
            let first = match self.is_archive() {
                // One entry after the other.
                true => state.waiting.front().filter(|file| ready(file)).map(|_| 0),
                false => state.waiting.iter().position(ready),
            };
            if let Some(at) = first.filter(|_| room) {
                return match self.piece_of(&mut state, at) {
                    Ok(piece) => Some(piece),
                    Err(error) => {
                        drop(state);
                        self.fail(error);
                        None
                    }
                };
            }
            if state.complete && state.waiting.is_empty() {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a piece of a file can be taken.
    fn is_ready(&self, file: &Waiting) -> bool {
        !file.cutting && (file.closed || file.length - file.taken >= self.piece())
    }

    /// The bytes of a piece. One that is cut by content needs more than it keeps.
    fn piece(&self) -> u64 {
        match &self.session {
            Some(_) => self.share.piece + chunks::ENOUGH,
            None => self.share.piece,
        }
    }

    fn piece_of(&self, state: &mut State, at: usize) -> Result<Piece, Error> {
        let waiting = &mut state.waiting[at];
        let file = match &waiting.file {
            Some(file) => Arc::clone(file),
            None => {
                let number = state.opened;
                let file = Arc::new(PageFile::open(&self.dir, &waiting.name, number, self)?);
                state.opened += 1;
                if let Some(mut turns) = self.turns() {
                    turns.opened.insert(number, Arc::clone(&file));
                }
                waiting.file = Some(Arc::clone(&file));
                file
            }
        };
        let offset = waiting.taken;
        let length = (waiting.length - offset).min(self.piece());
        let last = waiting.closed && offset + length == waiting.length;
        if self.session.is_some() {
            waiting.cutting = true;
        } else {
            waiting.taken += length;
        }
        if last && !waiting.cutting {
            state.waiting.remove(at);
            // Waiting workers exit if this was the last file.
            self.changed.notify_all();
        }
        state.in_memory += 1;
        Ok(Piece {
            file,
            offset,
            length,
            last,
        })
    }

    /// Ends a piece after `length` bytes: the next one begins there. Returns whether the
    /// file is complete.
    pub(super) fn cut(&self, piece: &Piece, length: u64) -> bool {
        let mut state = self.state();
        let is_it = |waiting: &Waiting| {
            let file = waiting.file.as_ref();
            file.is_some_and(|file| file.number == piece.file.number)
        };
        let Some(at) = state.waiting.iter().position(is_it) else {
            return false;
        };
        let waiting = &mut state.waiting[at];
        waiting.taken = piece.offset + length;
        waiting.cutting = false;
        let complete = piece.last && waiting.taken == waiting.length;
        if complete {
            state.waiting.remove(at);
        }
        drop(state);
        self.changed.notify_all();
        complete
    }

    /// Gives back the place of a piece that is stored.
    pub(super) fn stored_piece(&self) {
        self.state().in_memory -= 1;
        self.changed.notify_all();
        self.report();
    }

    /// Reports progress to the observer.
    pub(super) fn report(&self) {
        let phase = match self.state().hurried {
            true => Phase::Compress,
            false => Phase::Dump,
        };
        (self.observer)(Progress {
            phase,
            raw: self.raw.load(Relaxed),
            done: self.done.load(Relaxed),
            stored: self.stored.load(Relaxed),
        });
    }

    pub(super) fn finished(&self, stored: Stored) {
        let mut state = self.state();
        state.unfinished -= 1;
        state.finished.push(stored);
    }

    /// Returns an empty buffer for a stored piece.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.state().spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Returns the memory of a written piece for reuse.
    pub(super) fn written(&self, piece: Ready) {
        let mut state = self.state();
        state.in_memory -= 1;
        state.spare.push(piece.stored);
        drop(state);
        self.changed.notify_all();
        self.report();
    }
}
