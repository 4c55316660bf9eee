//! Writes ready pieces in order, and the files of an archive one after the other.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::archive::{Tar, Turns};
use super::error::Error;
use super::page_file::{PageFile, Ready, Sink};
use super::shared::Shared;

impl Shared {
    pub(super) fn turns(&self) -> Option<MutexGuard<'_, Turns>> {
        let turns = self.archive.as_ref()?;
        Some(turns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The archive with all page files, once all workers have ended.
    pub(super) fn take_archive(&self) -> Option<Tar> {
        self.turns()?.tar.take()
    }

    /// Writes a piece if it is next in order, and the ready ones after it. Otherwise,
    /// or if another worker is writing, a later call writes it, so that no worker waits
    /// for another.
    pub(super) fn write(&self, file: &PageFile, offset: u64, ready: Ready) -> Result<(), Error> {
        file.out().ready.insert(offset, ready);
        let mut next = self.write_ready(file)?;
        // The archive's next file may have pieces that waited for this one's end.
        while let Some(file) = next {
            next = self.write_ready(&file)?;
        }
        Ok(())
    }

    /// The sink of a file whose turn it is in the archive.
    fn claim(&self, file: &PageFile) -> Result<Option<Sink>, Error> {
        let Some(mut turns) = self.turns() else {
            return Ok(None);
        };
        if turns.turn != file.number {
            return Ok(None);
        }
        let tar = turns.tar.take();
        drop(turns);
        tar.map(|tar| file.begin(tar, self.compression)).transpose()
    }

    /// Hands the archive to the next file, and returns that file if it is open.
    fn pass_on(&self, file: &PageFile, tar: Option<Tar>) -> Option<Arc<PageFile>> {
        let mut turns = self.turns()?;
        turns.opened.remove(&file.number);
        turns.tar = tar;
        turns.turn = file.number + 1;
        turns.opened.get(&turns.turn).map(Arc::clone)
    }

    /// Writes the pieces of a file that are ready and next in order. Returns the file
    /// whose turn is next, if this one is complete.
    fn write_ready(&self, file: &PageFile) -> Result<Option<Arc<PageFile>>, Error> {
        let mut out = file.out();
        loop {
            let turn = out.turn;
            let mut sink = match out.sink.take() {
                Some(sink) => sink,
                None => match self.claim(file)? {
                    Some(sink) => sink,
                    None => return Ok(None),
                },
            };
            let Some(piece) = out.ready.remove(&turn) else {
                out.sink = Some(sink);
                return Ok(None);
            };
            drop(out);
            file.append(&mut sink, &piece)?;
            if self.copies() && self.punches.load(Relaxed) && !file.punch(turn, piece.length)? {
                self.punches.store(false, Relaxed);
            }
            self.done.fetch_add(piece.length, Relaxed);
            self.stored.fetch_add(piece.stored.len() as u64, Relaxed);
            if piece.last {
                let mut stored = file.finish(sink, self.compression, self.queue.as_ref())?;
                let next = self.pass_on(file, stored.tar.take());
                self.finished(stored);
                self.written(piece);
                return Ok(next);
            }
            out = file.out();
            out.turn += piece.length;
            out.sink = Some(sink);
            drop(out);
            self.written(piece);
            out = file.out();
        }
    }
}
