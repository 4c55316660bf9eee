//! One address space: what it lacks, and how it gets it.
//!
//! See the parent module for why there is a gate. Those who give pages go
//! through it side by side; who reads events has it alone, so that nobody is in
//! the middle of giving a page when the process is let go on.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use nix::errno::Errno;

use super::Failure;
use super::pending::{Frame, Pending, Piece};
use super::uffd::{Event, Uffd, is_gone};

/// How much is given in one go. An event waits for no more than that: about 50
/// microseconds' worth of copying.
const CHUNK: u64 = 64 << 10;

/// How giving pages went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// So many bytes were given. What is not needed any more doesn't count.
    Bytes(u64),
    /// Nothing can be given until an event has been read.
    Busy,
    /// The container's memory limit leaves no room just now.
    NoRoom,
    /// Nobody is there any more: an exit, or an exec.
    Gone,
}

struct State {
    pending: Pending,
    /// Where prefetching in the order of addresses goes on.
    cursor: u64,
    /// Frames that are being decoded ahead.
    claimed: Vec<Frame>,
    gone: bool,
}

/// See the module's documentation.
pub(super) struct Space {
    /// The process's number in the checkpoint; a forked child's has none.
    pid: Option<i32>,
    uffd: Uffd,
    gate: RwLock<()>,
    state: Mutex<State>,
    page: u64,
}

/// What a process did, apart from waiting for pages.
#[derive(Default)]
pub(super) struct Seen {
    /// The addresses of pages that are waited for.
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
                gone: false,
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

    /// Whether nothing more is to be given.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state();
        state.gone || state.pending.is_empty()
    }

    /// How much is missing.
    pub(super) fn missing(&self) -> u64 {
        let state = self.state();
        match state.gone {
            true => 0,
            false => state.pending.bytes(),
        }
    }

    /// Reads what the process has done, and follows it.
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

    /// What is to be decoded for an address; nothing if its page is not missing.
    pub(super) fn wanted(
        &self,
        address: u64,
        frame_size: impl Fn(u32) -> u64,
    ) -> Option<(Frame, Vec<Piece>)> {
        self.state().pending.around(address, frame_size)
    }

    /// The same for what is to be decoded ahead: the first of a range, or else
    /// where that goes on. Nobody else gets it until [`Self::release`].
    pub(super) fn claim(
        &self,
        within: Option<Range<u64>>,
        frame_size: impl Fn(u32) -> u64,
    ) -> Option<(Frame, Vec<Piece>)> {
        let mut state = self.state();
        if state.gone {
            return None;
        }
        let mut at = within.as_ref().map_or(state.cursor, |range| range.start);
        let limit = within.as_ref().map_or(u64::MAX, |range| range.end);
        // A range is for one place; the walk begins anew at the end.
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
            let (frame, pieces) = state.pending.around(address, &frame_size)?;
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

    /// A claimed frame has been dealt with.
    pub(super) fn release(&self, frame: Frame) {
        self.state().claimed.retain(|claimed| *claimed != frame);
    }

    /// Gives the process what it still lacks of a piece. Until the restore is
    /// `settled`, memory that is not registered yet will be, and stays missing.
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

    /// Gives pages, all of which are missing. The gate is open.
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
                // It is there: touched before it was registered, or given to a
                // child by its parent.
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

    /// Gives a page of zeros where nothing is missing: memory that was never
    /// written to, or whose content was given up.
    pub(super) fn give_zeros(&self, address: u64) -> Result<Given, Failure> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.state().pending.contains(address) {
            // Moved here meanwhile.
            return Ok(Given::Busy);
        }
        match self.uffd.zero(address, self.page) {
            Ok(_) => Ok(Given::Bytes(0)),
            // It is there, or it can't be: whoever waits finds out.
            Err(Errno::EEXIST | Errno::ENOENT) => {
                self.uffd.wake(address, self.page);
                Ok(Given::Bytes(0))
            }
            Err(error) => self.refused(error, "UFFDIO_ZEROPAGE"),
        }
    }

    /// Looks whether the address space still exists.
    pub(super) fn look(&self) {
        if is_gone(self.uffd.as_fd()) {
            self.state().gone = true;
        }
    }

    /// Lets whoever waits at an address look again.
    pub(super) fn wake(&self, address: u64) {
        self.uffd.wake(address, self.page);
    }

    fn refused(&self, error: Errno, what: &'static str) -> Result<Given, Failure> {
        match error {
            Errno::EAGAIN | Errno::EINTR => Ok(Given::Busy),
            Errno::ENOMEM => Ok(Given::NoRoom),
            // The second before Linux 4.13.
            Errno::ESRCH | Errno::ENOSPC => {
                self.state().gone = true;
                Ok(Given::Gone)
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
