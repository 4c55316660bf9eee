//! Moves, drops, copies and locks memory.
//!
//! The regions are set up before a checkpoint and used once after a restore, while a
//! lazy one still lacks them. Each game has its own region, whose pages all differ and
//! are known.

use std::ffi::{c_int, c_void};
use std::io;
use std::process::Command;
use std::slice;

use crate::memory::word;

pub(crate) const PAGE: usize = 4096;
const PAGES: usize = 512;
const BYTES: usize = PAGE * PAGES;

pub(crate) const PROT_NONE: c_int = 0;
pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_WRITE: c_int = 2;
const MAP_PRIVATE: c_int = 2;
const MAP_ANONYMOUS: c_int = 0x20;
const MREMAP_MAYMOVE: c_int = 1;
const MADV_DONTNEED: c_int = 4;
const MADV_WIPEONFORK: c_int = 18;
pub(crate) const MADV_GUARD_INSTALL: c_int = 102;
const MAP_FAILED: usize = usize::MAX;

unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        length: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, length: usize) -> c_int;
    fn mremap(at: *mut c_void, old: usize, new: usize, flags: c_int, ...) -> *mut c_void;
    pub(crate) fn madvise(at: *mut c_void, length: usize, advice: c_int) -> c_int;
    pub(crate) fn mprotect(at: *mut c_void, length: usize, prot: c_int) -> c_int;
    fn mlock(at: *const c_void, length: usize) -> c_int;
    pub(crate) fn fork() -> c_int;
    pub(crate) fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

/// A mapping with known pages.
#[derive(Clone, Copy)]
struct Region {
    at: usize,
    seed: u64,
}

fn done(result: c_int, what: &str) -> Result<(), String> {
    match result {
        0 => Ok(()),
        _ => Err(format!("{what}: {}", io::Error::last_os_error())),
    }
}

impl Region {
    fn new(seed: u64) -> Result<Self, String> {
        let at = map()?;
        let region = Self { at, seed };
        // SAFETY: the mapping has this length, and nothing else refers to it.
        let words = unsafe { slice::from_raw_parts_mut(at as *mut u64, BYTES / 8) };
        for (word_at, value) in words.iter_mut().enumerate() {
            *value = word(seed, word_at as u64);
        }
        Ok(region)
    }

    fn place(self, page: usize) -> *mut c_void {
        (self.at + page * PAGE) as *mut c_void
    }

    /// Fails unless these pages hold what was written to them.
    fn holds(self, pages: std::ops::Range<usize>, what: &str) -> Result<(), String> {
        for page in pages {
            let first = page * PAGE / 8;
            // SAFETY: the caller asserts that the page is mapped and readable.
            let words = unsafe { slice::from_raw_parts(self.place(page) as *const u64, PAGE / 8) };
            for (number, &value) in words.iter().enumerate() {
                if value != word(self.seed, (first + number) as u64) {
                    return Err(format!("{what}: page {page} is {value:x}.."));
                }
            }
        }
        Ok(())
    }

    fn is_zero(self, pages: std::ops::Range<usize>, what: &str) -> Result<(), String> {
        for page in pages {
            // SAFETY: as above.
            let words = unsafe { slice::from_raw_parts(self.place(page) as *const u64, PAGE / 8) };
            if words.iter().any(|&value| value != 0) {
                return Err(format!("{what}: page {page} is not zero"));
            }
        }
        Ok(())
    }
}

fn map() -> Result<usize, String> {
    map_with(BYTES, PROT_READ | PROT_WRITE)
}

/// A new private mapping without a file.
pub(crate) fn map_with(bytes: usize, prot: c_int) -> Result<usize, String> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let at = unsafe {
        mmap(
            std::ptr::null_mut(),
            bytes,
            prot,
            MAP_PRIVATE | MAP_ANONYMOUS,
            -1,
            0,
        )
    } as usize;
    match at {
        MAP_FAILED => Err(format!("mmap: {}", io::Error::last_os_error())),
        at => Ok(at),
    }
}

/// Runs `check` in a forked child, and fails if that does.
fn in_child(what: &str, check: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    // SAFETY: the child reads its memory and exits, without a lock or an allocation
    // unless it fails.
    match unsafe { fork() } {
        0 => {
            let code = c_int::from(check().is_err());
            // SAFETY: _exit runs no code of this process.
            unsafe { _exit(code) }
        }
        -1 => Err(format!("fork: {}", io::Error::last_os_error())),
        pid => {
            let mut status = 0;
            // SAFETY: the status lives through the call.
            while unsafe { waitpid(pid, &raw mut status, 0) } == -1 {}
            match status {
                0 => Ok(()),
                status => Err(format!("{what}: the child exited with {status:#x}")),
            }
        }
    }
}

/// The regions, and the result of the games.
pub(crate) struct Games {
    forked: Region,
    wiped: Region,
    unmapped: Region,
    moved: Region,
    dropped: Region,
    split: Region,
    locked: Region,
    played: Option<Result<(), String>>,
}

impl Games {
    pub(crate) fn set_up(nonce: u64) -> Result<Self, String> {
        let region = |number: u64| Region::new(nonce ^ (number << 56));
        let wiped = region(2)?;
        // SAFETY: this is the mapping's own length.
        let result = unsafe { madvise(wiped.place(0), BYTES, MADV_WIPEONFORK) };
        done(result, "wipe on fork")?;
        Ok(Self {
            forked: region(1)?,
            wiped,
            unmapped: region(3)?,
            moved: region(4)?,
            dropped: region(5)?,
            split: region(6)?,
            locked: region(7)?,
            played: None,
        })
    }

    /// Plays all games, each on memory that was not read before.
    pub(crate) fn play(&mut self) {
        self.played = Some(self.all());
    }

    fn all(&mut self) -> Result<(), String> {
        let everything = 0..PAGES;
        let (forked, wiped) = (self.forked, self.wiped);
        in_child("fork", || {
            wiped.is_zero(0..PAGES, "wiped")?;
            forked.holds(0..PAGES, "in the child")?;
            in_child("fork in a fork", || forked.holds(0..PAGES, "in its child"))
        })?;
        // A child that calls exec at once and lacks the same memory as its parent.
        let status = Command::new("/proc/self/exe")
            .arg("--name")
            .status()
            .map_err(|error| format!("exec: {error}"))?;
        if status.code() != Some(64) {
            return Err(format!("exec: {status}"));
        }

        let unmapped = self.unmapped;
        // SAFETY: nothing refers to these pages.
        done(unsafe { munmap(unmapped.place(100), 300 * PAGE) }, "munmap")?;
        unmapped.holds(0..100, "before the hole")?;
        unmapped.holds(400..PAGES, "after the hole")?;

        let old = self.moved;
        // SAFETY: nothing refers to the region but `moved`, which follows.
        let at = unsafe { mremap(old.place(0), BYTES, 2 * BYTES, MREMAP_MAYMOVE) } as usize;
        if at == MAP_FAILED {
            return Err(format!("mremap: {}", io::Error::last_os_error()));
        }
        self.moved.at = at;
        // And to an address where another mapping was.
        let to = map()?;
        const MREMAP_FIXED: c_int = 2;
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        // SAFETY: the target is a mapping of ours that nothing refers to.
        let at = unsafe { mremap(at as *mut c_void, BYTES, BYTES, flags, to as *mut c_void) };
        if at as usize != to {
            return Err(format!("mremap: {}", io::Error::last_os_error()));
        }
        let tail = Region {
            at: self.moved.at + BYTES,
            seed: 0,
        };
        self.moved.at = to;
        self.moved.holds(everything.clone(), "moved")?;
        tail.is_zero(0..PAGES, "grown")?;

        let dropped = self.dropped;
        let drop = |page: usize, pages: usize| {
            // SAFETY: the region has this length, and its content is not needed.
            let result = unsafe { madvise(dropped.place(page), pages * PAGE, MADV_DONTNEED) };
            done(result, "madvise")
        };
        drop(50, 200)?;
        dropped.is_zero(50..250, "dropped")?;
        dropped.holds(0..50, "before the dropped pages")?;
        dropped.holds(250..PAGES, "after the dropped pages")?;

        let split = self.split;
        for page in (0..PAGES).step_by(3) {
            // SAFETY: the page is in the region, and is only read from here on.
            let result = unsafe { mprotect(split.place(page), PAGE, PROT_READ) };
            done(result, "mprotect")?;
        }
        split.holds(everything.clone(), "split")?;

        let locked = self.locked;
        // Below the usual limit of 64 KiB.
        // SAFETY: mlock takes pages of the region.
        done(unsafe { mlock(locked.place(7), 8 * PAGE) }, "mlock")?;
        locked.holds(everything, "locked")
    }

    /// Fails if a game did, or if a region has changed since.
    pub(crate) fn verify(&self) -> Result<(), String> {
        if let Some(result) = &self.played {
            result.clone()?;
            self.unmapped.holds(0..100, "later, before the hole")?;
            self.unmapped.holds(400..PAGES, "later, after the hole")?;
            self.moved.holds(0..PAGES, "later, moved")?;
            self.dropped.is_zero(50..250, "later, dropped")?;
            self.dropped
                .holds(250..PAGES, "later, after the dropped pages")?;
            self.split.holds(0..PAGES, "later, split")?;
            self.locked.holds(0..PAGES, "later, locked")?;
            self.wiped.holds(0..PAGES, "later, wiped on fork")?;
            self.forked.holds(0..PAGES, "later, forked")?;
        }
        Ok(())
    }
}
