//! Watches the images directory for new page images, their lengths and their closes.
//!
//! inotify reports new files and closed ones. CRIU moves pages from a pipe
//! (splice), which inotify reports as a change only since kernel 6.4. So a growing
//! file's length is polled every few milliseconds, on every kernel: this wakes one
//! thread, and only while CRIU writes.
//!
//! A file in memory exists from the beginning. A watch of its own reports when CRIU
//! opens it, and from then on it counts as a page image.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::format::manifest::is_pages;

use super::error::Error;
use super::memory::Memory;
use super::shared::Shared;

/// Interval of polling a growing file's length, in milliseconds. CRIU writes about ten
/// megabytes in that time, a few pieces for the workers.
const LOOK: u8 = 5;

/// The watching thread, and the pipe that ends it.
pub(super) struct Watcher {
    /// One end of the pipe. Dropping it ends the thread.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn start(
        dir: &Path,
        memory: Option<Arc<Memory>>,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::File {
            what: "watch",
            path: dir.to_owned(),
            source,
        };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        inotify
            .add_watch(
                dir,
                AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE,
            )
            .map_err(|errno| failed(errno.into()))?;
        let in_memory = match &memory {
            Some(memory) => memory
                .watch(&inotify)
                .map_err(|errno| failed(errno.into()))?,
            None => HashMap::new(),
        };
        let (ended, end) = io::pipe().map_err(Error::Start)?;
        let mut watch = Watch {
            dir: dir.to_owned(),
            inotify,
            memory,
            in_memory,
            unsure: false,
            shared: Arc::clone(shared),
            growing: BTreeSet::new(),
            known: BTreeSet::new(),
        };
        // List before reading events: files may have been created before the watch
        // was added.
        watch.list().map_err(failed)?;
        let thread = thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                if let Err(source) = watch.run(&ended.into()) {
                    watch.shared.fail(Error::File {
                        what: "watch",
                        path: watch.dir.clone(),
                        source,
                    });
                }
            })
            .map_err(Error::Start)?;
        Ok(Self {
            end: Some(end.into()),
            thread: Some(thread),
        })
    }

    /// Ends the thread once CRIU has exited: all files in the directory are complete.
    pub(super) fn end(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    dir: PathBuf,
    inotify: Inotify,
    memory: Option<Arc<Memory>>,
    /// The file in memory of each watch.
    in_memory: HashMap<WatchDescriptor, String>,
    /// Whether events were lost.
    unsure: bool,
    shared: Arc<Shared>,
    growing: BTreeSet<String>,
    known: BTreeSet<String>,
}

impl Watch {
    fn run(&mut self, ended: &OwnedFd) -> io::Result<()> {
        loop {
            let timeout = match self.growing.is_empty() {
                true => PollTimeout::NONE,
                false => PollTimeout::from(LOOK),
            };
            let inotify = self.inotify.as_fd();
            let mut ready = [
                PollFd::new(inotify, PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut ready, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let over = ready[1].revents().is_some_and(|events| !events.is_empty());
            self.events()?;
            self.look()?;
            if over {
                self.list()?;
                for name in std::mem::take(&mut self.growing) {
                    self.finished(&name)?;
                }
                self.shared.all_known();
                return Ok(());
            }
        }
    }

    fn events(&mut self) -> io::Result<()> {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Missed closes are found at the end. An opened file that is
                    // empty can't be distinguished from an unused one.
                    self.unsure = true;
                    self.list()?;
                }
                let Some(name) = self.name(&event) else {
                    continue;
                };
                if !is_pages(&name) {
                    continue;
                }
                self.add(&name);
                if event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE) && self.growing.remove(&name)
                {
                    self.finished(&name)?;
                }
            }
        }
    }

    /// Name of the file of an event.
    fn name(&self, event: &InotifyEvent) -> Option<String> {
        match self.in_memory.get(&event.wd) {
            Some(name) => Some(name.clone()),
            None => event.name.as_ref()?.to_str().map(str::to_owned),
        }
    }

    fn list(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_pages(name))
                && !self.is_untouched(name)
            {
                self.add(name);
            }
        }
        Ok(())
    }

    /// Whether a file in memory is not yet used by CRIU.
    fn is_untouched(&self, name: &str) -> bool {
        let memory = self.memory.as_ref().filter(|_| !self.unsure);
        memory.is_some_and(|memory| memory.has_empty(name))
    }

    fn add(&mut self, name: &str) {
        if self.known.insert(name.to_owned()) {
            self.growing.insert(name.to_owned());
            self.shared.add(name);
        }
    }

    fn look(&self) -> io::Result<()> {
        for name in &self.growing {
            self.shared.grown(name, self.length(name)?, false);
        }
        Ok(())
    }

    fn finished(&self, name: &str) -> io::Result<()> {
        self.shared.grown(name, self.length(name)?, true);
        Ok(())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.dir.join(name))?.len())
    }
}
