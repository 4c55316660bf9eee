//! Stores memory in frames, compressed by all cores.
//!
//! ```text
//! raw ─► batch of frames ─┬─ thread: its share ─┐
//!                         └─ thread: its share ─┴─ in order ─► out
//! ```
//!
//! Nothing here waits for CRIU, so a batch is read, compressed and written after another.

use std::io::{self, Read, Write};
use std::panic::resume_unwind;
use std::thread;

use crate::format::pages::{Compression, Digest, Encoder, FRAME, Summary, TableBuilder};

/// Frames that each thread compresses in a batch: two MiB, against which the start of a
/// thread takes no time.
const FRAMES: usize = 8;

/// The most threads. With more the disk is slower.
const MAX_THREADS: usize = 8;

/// The side of a copy that failed.
pub(super) enum Side {
    Read(io::Error),
    Write(io::Error),
}

/// Threads' encoders, with their memory.
pub(super) struct Encoders(Vec<Encoder>);

/// Encoded frames, one after the other, with the raw and the stored length and the digest
/// of each.
type Encoded = (Vec<u8>, Vec<(u32, u32, Digest)>);

impl Encoders {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let encoders = (0..threads.min(MAX_THREADS)).map(|_| Encoder::new(compression));
        Ok(Self(encoders.collect::<Result<_, _>>()?))
    }

    /// Stores everything that `raw` has, without the trailer. `each` is called with the raw
    /// and the stored bytes of each batch, and returns an error to end it.
    pub(super) fn store(
        &mut self,
        raw: &mut dyn Read,
        out: &mut dyn Write,
        mut each: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<(Vec<u8>, Summary), Side> {
        let mut table = TableBuilder::new(FRAME);
        let mut batch = vec![0; FRAME as usize * FRAMES * self.0.len()];
        loop {
            let length = fill(raw, &mut batch).map_err(Side::Read)?;
            let mut stored = 0;
            for (bytes, frames) in self.encode(&batch[..length]).map_err(Side::Write)? {
                out.write_all(&bytes).map_err(Side::Write)?;
                stored += bytes.len() as u64;
                for (raw, stored, digest) in frames {
                    // More memory than any container.
                    table.frame(raw, stored, digest).map_err(Side::Read)?;
                }
            }
            each(length as u64, stored).map_err(Side::Read)?;
            if length < batch.len() {
                return Ok(table.finish());
            }
        }
    }

    fn encode(&mut self, raw: &[u8]) -> io::Result<Vec<Encoded>> {
        let share = FRAMES * FRAME as usize;
        thread::scope(|scope| {
            let threads: Vec<_> = raw
                .chunks(share)
                .zip(&mut self.0)
                .map(|(share, encoder)| scope.spawn(|| encode(share, encoder)))
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }
}

fn encode(raw: &[u8], encoder: &mut Encoder) -> io::Result<Encoded> {
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    for frame in raw.chunks(FRAME as usize) {
        let start = bytes.len();
        let digest = encoder.encode(frame, &mut bytes)?;
        // A frame has at most 16 MiB.
        frames.push((frame.len() as u32, (bytes.len() - start) as u32, digest));
    }
    Ok((bytes, frames))
}

/// Reads until `out` is full or the end is reached. Returns the number of bytes.
pub(super) fn fill(input: &mut dyn Read, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match input.read(&mut out[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_in_order_and_the_last_one_is_short() {
        for length in [0, 1, FRAME as usize, 40 * FRAME as usize + 5] {
            let raw: Vec<u8> = (0..length).map(|at| (at / 1000) as u8).collect();
            let mut encoders = Encoders::new(Compression::Zstd { level: 1 }).expect("encoders");
            let mut out = Vec::new();
            let mut told = 0;
            let stored = encoders.store(&mut &raw[..], &mut out, |raw, _| {
                told += raw;
                Ok(())
            });
            let Ok((trailer, summary)) = stored else {
                panic!("{length}: not stored");
            };
            assert_eq!((summary.raw_bytes, told), (length as u64, length as u64));
            assert_eq!(summary.frames, length.div_ceil(FRAME as usize) as u64);
            assert_eq!(summary.stored_bytes, (out.len() + trailer.len()) as u64);
            out.extend(trailer);
            assert!(
                zstd::decode_all(&out[..]).expect("frames") == raw,
                "{length}"
            );
        }
    }
}
