//! Starts and ends the threads of a capture.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use cedana_store::{Store, session};

use crate::format::pages::Compression;
use crate::host;
use crate::progress::Observer;
use crate::sys;

use super::archive::{ArchiveWriter, Tar};
use super::chunks;
use super::disk::{self, Disk};
use super::error::Error;
use super::memory::Memory;
use super::options::{Options, Share};
use super::shared::{Captured, Shared};
use super::watch::Watcher;
use super::work::work;

/// An empty file that becomes an archive.
#[derive(Debug)]
pub struct Archive {
    /// The file, open for writing.
    pub file: File,
    /// Its path, for messages.
    pub path: PathBuf,
}

/// Where the memory goes, if not to files beside CRIU's.
#[derive(Default)]
pub(super) struct Target<'a> {
    archive: Option<Archive>,
    store: Option<(&'a Store, session::Options)>,
}

/// Capture of the page images that CRIU writes to one directory. Dropping it stops it.
pub struct Capture {
    shared: Arc<Shared>,
    watcher: Watcher,
    /// CRIU's files; `None` if they are on disk.
    memory: Option<Arc<Memory>>,
    workers: Vec<JoinHandle<()>>,
    disk: Option<Disk>,
    archive: Option<(Arc<File>, PathBuf)>,
}

impl Capture {
    /// Starts storing page images: those that are in `dir`, and those that CRIU adds.
    ///
    /// # Errors
    /// The directory can't be watched, or no thread can be started.
    pub fn start(dir: &Path, options: Options, observer: Arc<Observer>) -> Result<Self, Error> {
        let memory = match options.compression {
            // The page images stay where CRIU writes them.
            Compression::None => None,
            Compression::Zstd { .. } => memory(dir, options),
        };
        Self::with(dir, options, memory, Target::default(), observer)
    }

    /// Starts storing the page images that CRIU writes to `dir` in a store. With an
    /// archive the lists of chunks are for it.
    ///
    /// # Errors
    /// As for [`Self::start`]; or the store's quota is used up, or it can't be used.
    pub fn to_store(
        dir: &Path,
        store: &Store,
        archive: Option<Archive>,
        options: Options,
        (level, quota): (i32, Option<u64>),
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let session = session::Options {
            level,
            // Fits: a page has at most a few hundred KiB.
            page_size: host::sys::page_size() as u32,
            quota,
        };
        let target = Target {
            archive,
            store: Some((store, session)),
        };
        Self::with(dir, options, memory(dir, options), target, observer)
    }

    /// Starts storing the page images that CRIU writes to `dir` in an archive.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn to_archive(
        dir: &Path,
        archive: Archive,
        options: Options,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let target = Target {
            archive: Some(archive),
            store: None,
        };
        Self::with(dir, options, memory(dir, options), target, observer)
    }

    pub(super) fn with(
        dir: &Path,
        options: Options,
        mut memory: Option<Arc<Memory>>,
        target: Target<'_>,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        // The stored data of page images in memory is so large that the kernel would
        // write it anyway.
        // A store outlives the checkpoint's directory, which others may copy.
        let flush = options.flush || memory.is_some() || target.store.is_some();
        // With little memory the workers get all of it.
        let direct = flush && options.memory >= 4 * disk::MEMORY;
        let buffers = options.memory - if direct { disk::MEMORY } else { 0 };
        let disk = match flush {
            true => Some(Disk::start(direct).map_err(Error::Start)?),
            false => None,
        };
        let archive = target
            .archive
            .map(|archive| (Arc::new(archive.file), archive.path));
        let queue = || disk.as_ref().map(Disk::queue);
        let session = match target.store {
            Some((store, options)) => Some(chunks::begin(store, options, queue())?),
            None => None,
        };
        let tar = archive
            .as_ref()
            .filter(|_| session.is_none())
            .map(|(file, path)| Tar::new(Arc::clone(file), path, queue()));
        let shared = Arc::new(Shared::new(
            dir,
            options.compression,
            Share::of(buffers, cores),
            queue(),
            (tar, session),
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
            archive,
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
        let mut disk = self.disk.take();
        // Its last bytes are on their way to the disk's thread then.
        let added = match self
            .shared
            .session
            .as_ref()
            .filter(|_| !self.shared.has_failed())
        {
            Some(session) => session.seal()?.bytes,
            None => 0,
        };
        let captured = match self.archive.take() {
            Some((file, path)) if self.shared.session.is_some() => {
                let captured = join_disk(disk.take()).and_then(|()| self.shared.take());
                let tar = Tar::new(Arc::clone(&file), &path, None);
                captured.map(|captured| Captured {
                    archive: Some(ArchiveWriter::new(tar, None, file, path)),
                    ..captured
                })
            }
            // More is written to the archive, so the disk's thread goes on.
            Some((file, path)) => match (self.shared.take(), self.shared.take_archive()) {
                (Ok(captured), Some(tar)) => Ok(Captured {
                    archive: Some(ArchiveWriter::new(tar, disk.take(), file, path)),
                    ..captured
                }),
                (captured, _) => join_disk(disk.take()).and(captured),
            },
            // The disk's error comes first, because it makes workers fail.
            None => join_disk(disk.take()).and_then(|()| self.shared.take()),
        };
        self.memory = None;
        captured.map(|captured| Captured {
            stored_bytes: captured.stored_bytes + added,
            ..captured
        })
    }

    fn start_workers(&mut self, low: bool) -> Result<(), Error> {
        for _ in 0..self.shared.workers() {
            let shared = Arc::clone(&self.shared);
            let worker = thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || work(&shared, low))
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

fn join_disk(disk: Option<Disk>) -> Result<(), Error> {
    disk.map_or(Ok(()), Disk::join)
}

/// Files in memory for CRIU's images, if that is faster.
fn memory(dir: &Path, options: Options) -> Option<Arc<Memory>> {
    let expected = options.expected?;
    Memory::for_images(dir, expected).map(Arc::new)
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
