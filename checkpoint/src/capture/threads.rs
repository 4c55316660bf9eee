//! Starts and ends the threads of a capture.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::format::pages::Compression;
use crate::progress::Observer;
use crate::sys;

use super::disk::{self, Disk};
use super::error::Error;
use super::memory::Memory;
use super::options::{Options, Share};
use super::shared::{Captured, Shared};
use super::watch::Watcher;
use super::work::work;

/// Capture of the page images that CRIU writes to one directory. Dropping it stops it.
pub struct Capture {
    shared: Arc<Shared>,
    watcher: Watcher,
    /// CRIU's files; `None` if they are on disk.
    memory: Option<Arc<Memory>>,
    workers: Vec<JoinHandle<()>>,
    disk: Option<Disk>,
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
            Compression::Zstd { .. } => options
                .expected
                .and_then(|expected| Memory::for_images(dir, expected))
                .map(Arc::new),
        };
        Self::with(dir, options, memory, observer)
    }

    pub(super) fn with(
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
