//! The workers: take pieces, compress them, write them in order.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::format::manifest::{Entry, Kind};
use crate::format::pages::{Compression, Digest, Encoder, FRAME, Summary, TableBuilder, Writer};
use crate::progress::{Observer, Phase, Progress};
use crate::sys;

use super::disk::{Queue, Stream, create};
use super::{Captured, Error, Share, stored_name};

/// State that workers, watcher and [`super::Capture`] share.
pub(super) struct Shared {
    dir: PathBuf,
    compression: Compression,
    share: Share,
    state: Mutex<State>,
    /// A piece may be available, or no more pieces will be.
    changed: Condvar,
    observer: Arc<Observer>,
    /// Jobs for the disk's thread; `None` if files are not flushed.
    queue: Option<Queue>,
    raw: AtomicU64,
    done: AtomicU64,
    stored: AtomicU64,
    punches: AtomicBool,
}

struct State {
    /// Files with pieces left, in the order in which CRIU created them.
    waiting: VecDeque<Waiting>,
    /// Files that are stored.
    finished: Vec<Stored>,
    /// Number of files that are waiting, or whose last piece is being stored.
    unfinished: usize,
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
    file: Option<Arc<PageFile>>,
}

/// A page image that is being stored.
struct PageFile {
    name: String,
    path: PathBuf,
    raw: File,
    out: Mutex<Out>,
}

/// The stored file, to which pieces are appended in order.
struct Out {
    /// Raw bytes of the written pieces: the offset of the next one.
    turn: u64,
    /// Pieces that are ready before their turn, by offset.
    ready: BTreeMap<u64, Ready>,
    /// `None` while a worker is writing, and at the end.
    sink: Option<Sink>,
}

enum Sink {
    Frames {
        writer: Writer<Stream>,
        path: PathBuf,
    },
    Digests(TableBuilder),
}

struct Stored {
    raw_path: PathBuf,
    entries: Vec<Entry>,
    summary: Summary,
}

/// A few frames to store.
struct Piece {
    file: Arc<PageFile>,
    offset: u64,
    length: u64,
    last: bool,
}

/// A compressed piece that has to be written.
struct Ready {
    length: u64,
    last: bool,
    /// The frames, one after the other.
    stored: Vec<u8>,
    /// Raw and stored length of each frame, and its digest.
    frames: Vec<(u32, usize, Digest)>,
}

impl Shared {
    pub(super) fn new(
        dir: &Path,
        compression: Compression,
        share: Share,
        queue: Option<Queue>,
        observer: Arc<Observer>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            compression,
            share,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                finished: Vec::new(),
                unfinished: 0,
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
        if file.closed || file.length - file.taken >= self.share.piece {
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
    fn begin(&self) {
        let mut state = self.state();
        if !state.hurried && self.compression != Compression::None {
            state.low.push(sys::thread_id());
            sys::lower_priority();
        }
    }

    /// Unregisters a worker, whose thread ID may be reused.
    fn end(&self) {
        let thread = sys::thread_id();
        self.state().low.retain(|low| *low != thread);
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
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
        };
        for file in state.finished.drain(..) {
            let path = file.raw_path;
            let found = fs::metadata(&path).map_err(at("read", &path))?.len();
            if found != file.summary.raw_bytes {
                return Err(Error::Changed {
                    path,
                    found,
                    read: file.summary.raw_bytes,
                });
            }
            if self.compression != Compression::None {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
            captured.raw_bytes += file.summary.raw_bytes;
            captured.stored_bytes += file.summary.stored_bytes;
            captured.files.extend(file.entries);
        }
        Ok(captured)
    }

    /// Waits for the next piece; `None` if this worker must exit.
    fn next(&self, low: bool) -> Option<Piece> {
        let mut state = self.state();
        loop {
            if state.stopped || (low && state.replaced) {
                return None;
            }
            let ready =
                |file: &Waiting| file.closed || file.length - file.taken >= self.share.piece;
            let room = state.in_memory < self.share.in_memory;
            if let Some(at) = state.waiting.iter().position(ready).filter(|_| room) {
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

    fn piece_of(&self, state: &mut State, at: usize) -> Result<Piece, Error> {
        let waiting = &mut state.waiting[at];
        let file = match &waiting.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(PageFile::open(self, &waiting.name)?);
                waiting.file = Some(Arc::clone(&file));
                file
            }
        };
        let offset = waiting.taken;
        let length = (waiting.length - offset).min(self.share.piece);
        waiting.taken += length;
        let last = waiting.closed && waiting.taken == waiting.length;
        if last {
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
}

/// Runs a worker. `low`: it was started while CRIU was running.
pub(super) fn work(shared: &Shared, low: bool) {
    shared.begin();
    let result = Worker::new(shared).and_then(|mut worker| {
        while let Some(piece) = shared.next(low) {
            worker.store(shared, &piece)?;
        }
        Ok(())
    });
    shared.end();
    if let Err(error) = result {
        shared.fail(error);
    }
}

/// Buffers of one worker.
struct Worker {
    encoder: Encoder,
    raw: Vec<u8>,
}

impl Worker {
    fn new(shared: &Shared) -> Result<Self, Error> {
        Ok(Self {
            encoder: Encoder::new(shared.compression).map_err(Error::Encoder)?,
            raw: Vec::new(),
        })
    }

    fn store(&mut self, shared: &Shared, piece: &Piece) -> Result<(), Error> {
        let file = &*piece.file;
        // At most a piece, whose length depends on the memory setting.
        self.raw.resize(piece.length as usize, 0);
        file.raw
            .read_exact_at(&mut self.raw, piece.offset)
            .map_err(at("read", &file.path))?;
        let ready = self.compress(shared, piece)?;
        shared.write(file, piece.offset, ready)
    }

    fn compress(&mut self, shared: &Shared, piece: &Piece) -> Result<Ready, Error> {
        let mut stored = shared.state().spare.pop().unwrap_or_default();
        stored.clear();
        let mut frames = Vec::new();
        for raw in self.raw.chunks(FRAME as usize) {
            let before = stored.len();
            let digest = match shared.compression {
                Compression::None => Digest::of(raw),
                Compression::Zstd { .. } => self
                    .encoder
                    .encode(raw, &mut stored)
                    .map_err(Error::Encoder)?,
            };
            // A frame's length fits: it is at most FRAME.
            frames.push((raw.len() as u32, stored.len() - before, digest));
        }
        Ok(Ready {
            length: piece.length,
            last: piece.last,
            stored,
            frames,
        })
    }
}

impl Shared {
    /// Writes a piece if it is next in order, and the ready ones after it. Otherwise,
    /// or if another worker is writing, a later call writes it, so that no worker waits
    /// for another.
    fn write(&self, file: &PageFile, offset: u64, ready: Ready) -> Result<(), Error> {
        let mut out = file.out();
        out.ready.insert(offset, ready);
        loop {
            let turn = out.turn;
            let Some(mut sink) = out.sink.take() else {
                return Ok(());
            };
            let Some(piece) = out.ready.remove(&turn) else {
                out.sink = Some(sink);
                return Ok(());
            };
            drop(out);
            self.append(&mut sink, file, &piece)?;
            if self.compression != Compression::None {
                punch(self, file, turn, piece.length)?;
            }
            self.done.fetch_add(piece.length, Relaxed);
            self.stored.fetch_add(piece.stored.len() as u64, Relaxed);
            if piece.last {
                finish(self, file, sink)?;
                self.written(piece);
                return Ok(());
            }
            out = file.out();
            out.turn += piece.length;
            out.sink = Some(sink);
            drop(out);
            self.written(piece);
            out = file.out();
        }
    }

    fn append(&self, sink: &mut Sink, file: &PageFile, piece: &Ready) -> Result<(), Error> {
        let mut stored = &piece.stored[..];
        for (raw, length, digest) in &piece.frames {
            match sink {
                Sink::Frames { writer, path, .. } => {
                    let (frame, rest) = stored.split_at(*length);
                    writer
                        .frame(*raw, frame, *digest)
                        .map_err(at("write", path))?;
                    stored = rest;
                }
                Sink::Digests(table) => table
                    .frame(*raw, *raw, *digest)
                    .map_err(at("digest", &file.path))?,
            }
        }
        Ok(())
    }

    /// Returns the memory of a written piece for reuse.
    fn written(&self, piece: Ready) {
        let mut state = self.state();
        state.in_memory -= 1;
        state.spare.push(piece.stored);
        drop(state);
        self.changed.notify_all();
        self.report();
    }
}

/// Punches a hole into CRIU's file where it is stored.
fn punch(shared: &Shared, file: &PageFile, offset: u64, length: u64) -> Result<(), Error> {
    if length == 0 || !shared.punches.load(Relaxed) {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    // File offsets fit: the kernel's are signed, too.
    match fallocate(&file.raw, flags, offset as i64, length as i64) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            shared.punches.store(false, Relaxed);
            Ok(())
        }
        Err(errno) => Err(at("punch a hole into", &file.path)(errno.into())),
    }
}

/// Writes the trailer, after the last piece.
fn finish(shared: &Shared, file: &PageFile, sink: Sink) -> Result<(), Error> {
    let (name, kind) = stored_name(&file.name, shared.compression);
    let (summary, entries) = match sink {
        Sink::Frames { writer, path } => {
            let (stream, summary) = writer.finish().map_err(at("write", &path))?;
            stream.end().map_err(at("write", &path))?;
            let entry = Entry::pages(&name, kind, &summary);
            (summary, vec![entry])
        }
        Sink::Digests(table) => {
            let (trailer, summary) = table.finish();
            let table_name = format!("{name}.table");
            let path = shared.dir.join(&table_name);
            let table = create(&path).map_err(at("make", &path))?;
            (&table).write_all(&trailer).map_err(at("write", &path))?;
            if let Some(queue) = &shared.queue {
                let raw = File::open(&file.path).map_err(at("open", &file.path))?;
                queue.begin(Arc::new(raw));
            }
            let size = trailer.len() as u64;
            let entries = vec![
                Entry::pages(&name, kind, &summary),
                Entry::whole(&table_name, Kind::Table, size, summary.table_digest),
            ];
            (summary, entries)
        }
    };
    let mut state = shared.state();
    state.unfinished -= 1;
    state.finished.push(Stored {
        raw_path: file.path.clone(),
        entries,
        summary,
    });
    Ok(())
}

impl PageFile {
    fn open(shared: &Shared, name: &str) -> Result<Self, Error> {
        let Shared {
            dir, compression, ..
        } = shared;
        let path = dir.join(name);
        let raw = OpenOptions::new()
            .read(true)
            .write(*compression != Compression::None)
            .open(&path)
            .map_err(at("open", &path))?;
        let sink = match compression {
            Compression::None => Sink::Digests(TableBuilder::new(FRAME)),
            Compression::Zstd { .. } => {
                let path = dir.join(stored_name(name, *compression).0);
                let stream =
                    Stream::create(&path, shared.queue.clone()).map_err(at("make", &path))?;
                Sink::Frames {
                    writer: Writer::new(stream, FRAME),
                    path,
                }
            }
        };
        Ok(Self {
            name: name.to_owned(),
            path,
            raw,
            out: Mutex::new(Out {
                turn: 0,
                ready: BTreeMap::new(),
                sink: Some(sink),
            }),
        })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        what,
        path: path.clone(),
        source,
    }
}
