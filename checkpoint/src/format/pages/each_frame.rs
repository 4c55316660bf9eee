//! Handles all frames of a page file on all processors.
//!
//! Each thread takes the next frame. So no thread waits for another, and memory for one
//! frame per processor suffices.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Decoder, Reader};

impl Reader {
    /// Calls `handle` once for each frame, with a decoder and a buffer of the thread.
    ///
    /// # Errors
    /// The first error of `handle`, after which no thread takes another frame.
    pub(crate) fn each_frame<E: Send>(
        &self,
        handle: impl Fn(usize, &mut Decoder, &mut Vec<u8>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let frames = self.frames();
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), E> {
            let mut decoder = Decoder::default();
            let mut raw = Vec::new();
            loop {
                let frame = next.fetch_add(1, Ordering::Relaxed);
                if frame >= frames {
                    return Ok(());
                }
                let handled = handle(frame, &mut decoder, &mut raw);
                if handled.is_err() {
                    next.store(frames, Ordering::Relaxed);
                    return handled;
                }
            }
        };
        let others = thread::available_parallelism().map_or(0, |count| count.get() - 1);
        thread::scope(|scope| {
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            let ours = work();
            others.into_iter().fold(ours, |result, other| {
                let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                result.and(other)
            })
        })
    }
}
