//! Answers page faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::super::pending::Piece;
use super::super::prefetch::{ATTEMPTS, NO_ROOM};
use super::super::space::{Given, Space};
use super::super::touches::BLOCK;
use super::{Phase, Source};

/// A page that a process waits for.
pub(super) struct Waiting {
    pub(super) space: Arc<Space>,
    pub(super) address: u64,
    pub(super) since: Instant,
    /// The number of attempts for which there was no memory.
    pub(super) refused: u32,
}

impl Source {
    /// Gives all pages that processes wait for.
    pub(super) fn answer(&mut self) -> Result<(), Failure> {
        self.retry = None;
        for mut fault in std::mem::take(&mut self.waiting) {
            match self.serve(&fault)? {
                Given::Bytes(count) => {
                    self.faulted_bytes += count;
                    continue;
                }
                Given::Ended => continue,
                // The next step reads the event first.
                Given::Busy => self.retry = Some(Duration::from_millis(1)),
                Given::NoRoom => {
                    fault.refused += 1;
                    if fault.refused > ATTEMPTS {
                        return Err(Failure::NoRoom);
                    }
                    self.retry.get_or_insert(NO_ROOM);
                }
            }
            self.waiting.push_back(fault);
        }
        Ok(())
    }

    fn serve(&mut self, fault: &Waiting) -> Result<Given, Failure> {
        let (space, address) = (&fault.space, fault.address);
        let shared = self.prefetch.shared.clone();
        let frame_at = |file, offset| shared.frame_at(file, offset);
        let Some((frame, pieces)) = space.wanted(address, frame_at) else {
            let given = space.give_zeros(address)?;
            if given == Given::Bytes(0) {
                self.times.add(fault.since.elapsed());
            }
            return Ok(given);
        };
        if self.decoded != Some(frame) {
            self.decoded = None;
            shared.decode(frame, &mut self.decoder, &mut self.bytes)?;
            self.decoded = Some(frame);
        }
        let settled = self.phase != Phase::Restoring;
        let mut given = 0;
        let mut give = |piece: Piece| -> Result<Given, Failure> {
            let bytes = shared.bytes_of(frame, piece, &self.bytes);
            let result = space.give(frame.file, piece, bytes, settled)?;
            if let Given::Bytes(count) = result {
                given += count;
            }
            Ok(result)
        };
        let Some(&own) = pieces.first() else {
            return Ok(Given::Busy);
        };
        // The missing page comes first. A forked child gets nothing else: see
        // [`super::super::prefetch`].
        let length = match space.is_forked() {
            true => space.page(),
            false => BLOCK,
        };
        let first = Piece {
            start: address,
            end: own.end.min(address + length),
            offset: own.offset + (address - own.start),
        };
        match give(first)? {
            Given::Bytes(_) => {}
            other => return Ok(other),
        }
        // Another thread may have given the page while this one decoded, or the
        // process has unmapped it.
        space.wake(address);
        self.times.add(fault.since.elapsed());
        // Its neighbours may not be registered before that.
        if settled && !space.is_forked() {
            for piece in pieces {
                if !matches!(give(piece)?, Given::Bytes(_)) {
                    break;
                }
            }
            self.prefetch.hint(space.clone(), own.end);
        }
        // Touches are recorded last, because no process waits for them.
        if let (Some(pid), Some(since)) = (space.pid(), self.running_since) {
            self.touches
                .add(pid, address, fault.since.duration_since(since));
        }
        Ok(Given::Bytes(given))
    }
}
