//! Keeping the disk busy with what is stored, so that little is left to wait
//! for when the checkpoint is synced.
//!
//! One thread, because beginning to write blocks as soon as the disk's queue is
//! full, and a worker has better things to do then. Nothing is synced here: that
//! is done for all files at once, in the end, at the cost of one commit of the
//! file system's journal ([`crate::image::store`]).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use crate::sys;

/// Where files go that have something new to write.
pub(super) type Queue = Sender<Arc<File>>;

pub(super) struct Flusher(JoinHandle<()>);

impl Flusher {
    /// The thread, and its queue. It ends when the queue is dropped and empty.
    pub(super) fn start() -> io::Result<(Self, Queue)> {
        let (queue, files) = channel::<Arc<File>>();
        let thread = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || files.iter().for_each(|file| sys::start_writing(&file)))?;
        Ok((Self(thread), queue))
    }

    pub(super) fn join(self) {
        let _ = self.0.join();
    }
}
