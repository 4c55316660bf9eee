//! The workers: take pieces, compress them, write them in order.

use std::os::unix::fs::FileExt;

use crate::format::pages::{Compression, Digest, Encoder, FRAME};

use super::chunks;
use super::error::{Error, at};
use super::page_file::Ready;
use super::shared::{Piece, Shared};

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
    /// The store's part, if the memory goes there.
    chunks: Option<cedana_store::session::Worker>,
}

impl Worker {
    fn new(shared: &Shared) -> Result<Self, Error> {
        let session = shared.session.as_ref();
        let chunks = session.map(cedana_store::session::Worker::new);
        Ok(Self {
            chunks: chunks.transpose()?,
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
        if let Some(worker) = &mut self.chunks {
            return chunks::store(shared, worker, piece, &self.raw);
        }
        let ready = self.compress(shared, piece)?;
        shared.write(file, piece.offset, ready)
    }

    fn compress(&mut self, shared: &Shared, piece: &Piece) -> Result<Ready, Error> {
        let mut stored = shared.buffer();
        let mut frames = Vec::new();
        for raw in self.raw.chunks(FRAME as usize) {
            let before = stored.len();
            let digest = match shared.compression {
                Compression::None => {
                    if shared.copies() {
                        stored.extend(raw);
                    }
                    Digest::of(raw)
                }
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
