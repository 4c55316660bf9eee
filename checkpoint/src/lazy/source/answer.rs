//! Giving what is waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::super::pending::Piece;
use super::super::prefetch::{ATTEMPTS, NO_ROOM};
use super::super::space::{Given, Space};
use super::super::touches::BLOCK;
use super::{Phase, Source};

/// A page that somebody waits for.
pub(super) struct Waiting {
    pub(super) space: Arc<Space>,
    pub(super) address: u64,
    pub(super) since: Instant,
    /// How often there was no room for it.
    pub(super) refused: u32,
}

impl Source {
    /// Gives what is waited for.
    pub(super) fn answer(&mut self) -> Result<(), Failure> {
        self.retry = None;
        for mut fault in std::mem::take(&mut self.waiting) {
            match self.serve(&fault)? {
                Given::Bytes(count) => {
                    self.faulted_bytes += count;
                    continue;
                }
                Given::Gone => continue,
                // The event has come in by the next step.
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
        let Some((frame, pieces)) = space.wanted(address, |file| shared.frame_size(file)) else {
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
        // What is waited for comes first. To a forked child nothing else: see
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
        // Another thread may have given it while this one decoded, or the
        // process has taken the mapping away.
        space.wake(address);
        self.times.add(fault.since.elapsed());
        // What is beside it may not be registered before that.
        if settled && !space.is_forked() {
            for piece in pieces {
                if !matches!(give(piece)?, Given::Bytes(_)) {
                    break;
                }
            }
            self.prefetch.hint(space.clone(), own.end);
        }
        // Nobody waits for this.
        if let (Some(pid), Some(since)) = (space.pid(), self.running_since) {
            self.touches
                .add(pid, address, fault.since.duration_since(since));
        }
        Ok(Given::Bytes(given))
    }
}
