//! Memory that goes to the store.
//!
//! ```text
//! pages-N.img ─ piece ─► cut, in order ─┬─► names, new chunks ─► the store
//!                        (one worker)   │   (all workers)
//!                          the next piece begins at the last cut
//! all pieces of a file ─► pages-N.img.chunks
//! ```
//!
//! Where a chunk ends depends on its content alone, so a piece ends at a cut, and the next
//! one can be taken only then. Reading and cutting take a tenth of the time of the rest.
//! The chunks of the pieces are stored in any order: each is on its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};

use cedana_store::chunk::{Cut, Cutter};
use cedana_store::list;
use cedana_store::pack::Sink;
use cedana_store::session::{Options, Part, Session, Worker};

use super::disk::{Queue, Stream, create};
use super::error::{Error, at};
use super::page_file::{PageFile, Stored};
use super::shared::{Piece, Shared};
use crate::format::manifest::Entry;
use crate::host::sys;

/// The bytes beyond a piece that a cut may need.
pub(super) const ENOUGH: u64 = Cutter::ENOUGH as u64;

/// The chunks of a page file so far.
#[derive(Default)]
pub(super) struct Chunks {
    cutter: Option<Cutter>,
    /// The parts of each piece, by its offset.
    parts: BTreeMap<u64, Vec<Part>>,
    stored: u64,
    /// The length of the file, once all of it is cut.
    end: Option<u64>,
}

impl PageFile {
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the parts of a piece. Returns all of them if they are complete.
    fn add(&self, offset: u64, length: u64, parts: Vec<Part>) -> Option<(u64, Vec<Part>)> {
        let mut chunks = self.chunks();
        chunks.parts.insert(offset, parts);
        chunks.stored += length;
        let end = chunks.end.filter(|end| *end == chunks.stored)?;
        let parts = std::mem::take(&mut chunks.parts);
        Some((end, parts.into_values().flatten().collect()))
    }
}

/// Stores a piece, of which `raw` are the bytes.
pub(super) fn store(
    shared: &Shared,
    worker: &mut Worker,
    piece: &Piece,
    raw: &[u8],
) -> Result<(), Error> {
    let file = &*piece.file;
    let cuts = {
        let mut chunks = file.chunks();
        let cutter = chunks.cutter.get_or_insert_with(|| {
            // A page fits: it has at most a few KiB.
            Cutter::new(sys::page_size() as usize)
        });
        cutter.cut(raw, piece.last)
    };
    let length: usize = cuts.iter().copied().map(Cut::bytes).sum();
    let end = piece.offset + length as u64;
    // Before another worker may take the rest.
    if piece.last && length == raw.len() {
        file.chunks().end = Some(end);
    }
    shared.cut(piece, length as u64);
    let parts = worker.store(&raw[..length], &cuts)?;
    if shared.punches.load(Relaxed) && !file.punch(piece.offset, length as u64)? {
        shared.punches.store(false, Relaxed);
    }
    shared.done.fetch_add(length as u64, Relaxed);
    if let Some((raw_bytes, parts)) = file.add(piece.offset, length as u64, parts) {
        shared.finished(Stored::in_store(file, raw_bytes, parts));
    }
    shared.stored_piece();
    Ok(())
}

impl Stored {
    fn in_store(file: &PageFile, raw_bytes: u64, parts: Vec<Part>) -> Self {
        Self {
            raw_path: file.path.clone(),
            entries: Vec::new(),
            raw_bytes,
            stored_bytes: 0,
            tar: None,
            parts: Some(parts),
        }
    }

    /// Writes the list of its chunks, and returns its entry in the manifest.
    pub(super) fn write_list(&self, session: &Session, parts: &[Part]) -> Result<Entry, Error> {
        let mut path = self.raw_path.clone().into_os_string();
        path.push(list::SUFFIX);
        let path = Path::new(&path);
        let bytes = session.list(parts).render();
        let file = create(path).map_err(at("make", path))?;
        (&file).write_all(&bytes).map_err(at("write", path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Entry::chunks(&name, &bytes, self.raw_bytes))
    }
}

/// Begins a session whose packs are written by the disk's thread.
pub(super) fn begin(
    store: &cedana_store::Store,
    options: Options,
    queue: Option<Queue>,
) -> Result<Arc<Session>, Error> {
    let open = move |file: File, path: &Path| -> std::io::Result<Box<dyn Sink>> {
        Ok(Box::new(Pack(Stream::over(
            Arc::new(file),
            path,
            queue.clone(),
        ))))
    };
    Ok(Arc::new(Session::begin(store, options, Box::new(open))?))
}

/// A pack that goes past the page cache.
struct Pack(Stream);

impl Write for Pack {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Pack {
    fn end(self: Box<Self>) -> std::io::Result<()> {
        self.0.end()
    }
}
