//! One address space: its missing pages, and the lock for giving them.
//!
//! The parent module has the reason for the lock. Threads that give pages share it.
//! The thread that reads events holds it alone, so no page is being given when the
//! kernel lets the process continue.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use nix::errno::Errno;

use super::Failure;
use super::pending::{Frame, Pending, Piece};
use super::uffd::{Event, Uffd, is_gone};

/// The number of bytes that are given at once. An event waits for no more than that:
/// about 50 microseconds of copying.
const CHUNK: u64 = 64 << 10;

/// The result of giving pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The number of bytes given. Pages that are no longer missing don't count.
    Bytes(u64),
    /// The kernel accepts no page until an event has been read.
    Busy,
    /// The container's memory limit has no room now.
    NoRoom,
    /// The address space has ended, by exit or exec.
    Ended,
}

struct State {
    pending: Pending,
    /// The address at which prefetching continues.
    cursor: u64,
    /// Frames that are being decoded ahead.
    claimed: Vec<Frame>,
    ended: bool,
}

/// An address space; see the module's documentation.
pub(super) struct Space {
    /// The process's PID in the checkpoint; `None` for a forked child.
    pid: Option<i32>,
    uffd: Uffd,
    gate: RwLock<()>,
    state: Mutex<State>,
    page: u64,
}

/// The events of a process.
#[derive(Default)]
pub(super) struct Seen {
    /// Addresses of pages that the process waits for.
    pub(super) faults: Vec<u64>,
    /// Address spaces of forked children.
    pub(super) children: Vec<Space>,
}

impl Space {
    pub(super) fn new(
        pid: Option<i32>,
        fd: OwnedFd,
        pending: Pending,
        page: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            pid,
            uffd: Uffd::new(fd)?,
            gate: RwLock::new(()),
            state: Mutex::new(State {
                pending,
                cursor: 0,
                claimed: Vec::new(),
                ended: false,
            }),
            page,
        })
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Whether this is a child that was forked since the restore.
    pub(super) fn is_forked(&self) -> bool {
        self.pid.is_none()
    }

    /// The size of a page.
    pub(super) fn page(&self) -> u64 {
        self.page
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no page is missing.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state();
        state.ended || state.pending.is_empty()
    }

    /// The number of missing bytes.
    pub(super) fn missing(&self) -> u64 {
        let state = self.state();
        match state.ended {
            true => 0,
            false => state.pending.bytes(),
        }
    }

    /// Reads events and updates the map of missing pages.
    pub(super) fn follow(&self) -> io::Result<Seen> {
        let _closed = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen::default();
        for event in self.uffd.read()? {
            let mut state = self.state();
            match event {
                Event::Fault(address) => seen.faults.push(address & !(self.page - 1)),
                Event::Remove { start, end } => state.pending.remove(start..end),
                Event::Remap { from, to, length } => state.pending.remap(from, to, length),
                Event::Fork(fd) => {
                    let child = Self::new(None, fd, state.pending.forked(), self.page)?;
                    seen.children.push(child);
                }
            }
        }
        Ok(seen)
    }

    /// The frame to decode for an address; `None` if its page is not missing.
    pub(super) fn wanted(
        &self,
        address: u64,
        frame_at: impl Fn(u32, u64) -> (u64, Range<u64>),
    ) -> Option<(Frame, Vec<Piece>)> {
        self.state().pending.around(address, frame_at)
    }

    /// Claims a frame to decode ahead: the first of a range, or else the one at which
    /// prefetching continues. No other thread gets it until [`Self::release`].
    pub(super) fn claim(
        &self,
        within: Option<Range<u64>>,
        frame_at: impl Fn(u32, u64) -> (u64, Range<u64>),
    ) -> Option<(Frame, Vec<Piece>)> {
        let mut state = self.state();
        if state.ended {
            return None;
        }
        let mut at = within.as_ref().map_or(state.cursor, |range| range.start);
        let limit = within.as_ref().map_or(u64::MAX, |range| range.end);
        // A range is searched once. Without one, the search continues at the start.
        let mut again = within.is_none() && at > 0;
        loop {
            let Some(address) = state.pending.next(at).filter(|at| *at < limit) else {
                if !again {
                    return None;
                }
                again = false;
                at = 0;
                continue;
            };
            let (frame, pieces) = state.pending.around(address, &frame_at)?;
            let end = pieces.first()?.end;
            if !state.claimed.contains(&frame) {
                state.claimed.push(frame);
                if within.is_none() {
                    state.cursor = end;
                }
                return Some((frame, pieces));
            }
            if within.is_some() {
                return None;
            }
            at = end;
        }
    }

    /// Releases a claimed frame.
    pub(super) fn release(&self, frame: Frame) {
        self.state().claimed.retain(|claimed| *claimed != frame);
    }

    /// Gives the process the missing pages of a piece. Until the restore is `settled`,
    /// memory that is not registered yet stays missing.
    pub(super) fn give(
        &self,
        file: u32,
        piece: Piece,
        bytes: &[u8],
        settled: bool,
    ) -> Result<Given, Failure> {
        let mut given = 0;
        let mut start = piece.start;
        while start < piece.end {
            let chunk = Piece {
                start,
                end: piece.end.min(start + CHUNK),
                offset: piece.offset + (start - piece.start),
            };
            let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let lacking = self.state().pending.of(chunk, file);
            for range in lacking {
                let from = (range.start - piece.start) as usize;
                let to = (range.end - piece.start) as usize;
                match self.copy(range, &bytes[from..to], settled)? {
                    Given::Bytes(more) => given += more,
                    other => return Ok(other),
                }
            }
            start = chunk.end;
        }
        Ok(Given::Bytes(given))
    }

    /// Gives pages, all of which are missing. The caller shares the lock.
    fn copy(&self, range: Range<u64>, bytes: &[u8], settled: bool) -> Result<Given, Failure> {
        let mut given = 0;
        let mut at = range.start;
        let mut step = range.end - at;
        while at < range.end {
            let length = step.min(range.end - at);
            let from = (at - range.start) as usize;
            let page = at..at + self.page;
            let done = match self.uffd.copy(at, &bytes[from..from + length as usize]) {
                Ok(count) => {
                    given += count;
                    step = range.end - at;
                    at..at + count
                }
                // The page is resident: touched before it was registered, or
                // inherited from the parent.
                Err(Errno::EEXIST) => {
                    self.uffd.wake(at, self.page);
                    page
                }
                // Not registered here, or in two mappings since an mprotect.
                Err(Errno::ENOENT) if length > self.page => {
                    step = (length / 2).next_multiple_of(self.page);
                    continue;
                }
                Err(Errno::ENOENT) => {
                    self.uffd.wake(at, self.page);
                    step = range.end - at;
                    if !settled {
                        at += self.page;
                        continue;
                    }
                    page
                }
                Err(error) => return self.refused(error, "UFFDIO_COPY"),
            };
            at = done.end;
            self.state().pending.remove(done);
        }
        Ok(Given::Bytes(given))
    }

    /// Gives a page of zeros where no page is missing: memory that was never written
    /// to, or whose content was dropped.
    pub(super) fn give_zeros(&self, address: u64) -> Result<Given, Failure> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.state().pending.contains(address) {
            // The process has moved the page here meanwhile.
            return Ok(Given::Busy);
        }
        match self.uffd.zero(address, self.page) {
            Ok(_) => Ok(Given::Bytes(0)),
            // The page is resident, or can't be: a thread that waits faults again.
            Err(Errno::EEXIST | Errno::ENOENT) => {
                self.uffd.wake(address, self.page);
                Ok(Given::Bytes(0))
            }
            Err(error) => self.refused(error, "UFFDIO_ZEROPAGE"),
        }
    }

    /// Checks whether the address space still exists.
    pub(super) fn look(&self) {
        if is_gone(self.uffd.as_fd()) {
            self.state().ended = true;
        }
    }

    /// Wakes the threads that wait at an address. They fault again.
    pub(super) fn wake(&self, address: u64) {
        self.uffd.wake(address, self.page);
    }

    fn refused(&self, error: Errno, what: &'static str) -> Result<Given, Failure> {
        match error {
            Errno::EAGAIN | Errno::EINTR => Ok(Given::Busy),
            Errno::ENOMEM => Ok(Given::NoRoom),
            // ENOSPC is the error before Linux 4.13.
            Errno::ESRCH | Errno::ENOSPC => {
                self.state().ended = true;
                Ok(Given::Ended)
            }
            error => Err(Failure::system(what)(error.into())),
        }
    }
}

impl AsFd for Space {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}
