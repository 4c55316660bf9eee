//! Starts and ends the server: its mount and its threads.

use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::frames::Frames;
use super::mount::{self, Unavailable};
use super::requests::{Shared, lock};
use super::tree::{Root, Tree};
use crate::format::contents::Directory;
use crate::format::pages::Damage;

/// Maximum number of readers, and of workers: CRIU restores processes in parallel, and
/// each process reads one file at a time.
const MAX_THREADS: usize = 16;

/// A server of one directory. Dropping it removes the mount and ends its threads.
pub struct Server {
    mount: Option<OwnedFd>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// A pipe whose closing ends the readers.
    stop: Option<PipeWriter>,
}

impl Server {
    /// Serves a directory, with up to `memory` bytes of page files decoded ahead. The
    /// container's `root` may read the files that the host's root may read.
    ///
    /// # Errors
    /// FUSE is not available to this process, or no thread can be started.
    pub fn start(directory: Directory, memory: u64, root: Root) -> Result<Self, Unavailable> {
        let thread = |source| Unavailable {
            what: "cannot start to serve the checkpoint's files",
            source,
        };
        let mut tree = Tree {
            root,
            ..Tree::default()
        };
        tree.add(directory, None);
        let (device, mount) = mount::detached()?;
        let (end, stop) = io::pipe().map_err(thread)?;
        let mut server = Self {
            mount: Some(mount),
            shared: Arc::new(Shared {
                device,
                turn: Mutex::new(end),
                nodes: tree.nodes,
                frames: Frames::new(tree.pages, memory),
                damage: Mutex::default(),
            }),
            threads: Vec::new(),
            stop: Some(stop),
        };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        // One reader more than processors, because one waits for requests.
        let readers = (processors + 1).min(MAX_THREADS);
        let workers = processors.min(MAX_THREADS);
        let work: fn(&Shared) = |shared| shared.frames.work();
        let tasks = std::iter::repeat_n(Shared::serve as fn(&Shared), readers)
            .chain(std::iter::repeat_n(work, workers));
        for task in tasks {
            let shared = server.shared.clone();
            let handle = thread::Builder::new()
                .spawn(move || task(&shared))
                .map_err(thread)?;
            server.threads.push(handle);
        }
        server.shared.frames.begin();
        Ok(server)
    }

    /// Returns the directory's path, which is valid until this process exits.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let number = self.mount.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        Path::new("/proc")
            .join(std::process::id().to_string())
            .join("fd")
            .join(number.to_string())
    }

    /// Returns the first damage that was found while CRIU read the files.
    #[must_use]
    pub fn damage(&self) -> Option<Arc<Damage>> {
        lock(&self.shared.damage).clone()
    }

    fn end(&mut self) {
        self.stop = None;
        self.mount = None;
        self.shared.frames.close();
        for thread in self.threads.drain(..) {
            // The thread returns nothing, and a panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
