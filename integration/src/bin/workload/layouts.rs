//! Lays out memory as newer C libraries, databases and pre-forking servers do.

use std::ffi::{c_int, c_void};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

use crate::games::{
    MADV_GUARD_INSTALL, PAGE, PROT_NONE, PROT_READ, PROT_WRITE, fork, madvise, map_with, mprotect,
    waitpid,
};
use crate::memory::{Pattern, word};

/// The number of stacks, and the pages of each: one guard, then memory.
const STACKS: usize = 64;
const PAGES: usize = 64;

/// Stacks of threads under glibc 2.42: one mapping each, whose first page is a
/// guard region. Here they are adjacent in one mapping, so that an entry of CRIU's
/// list lies within another, with pages on both sides of it.
pub(crate) struct Guarded {
    at: usize,
    seed: u64,
}

impl Guarded {
    pub(crate) fn set_up(seed: u64) -> Result<Self, String> {
        let at = map_with(STACKS * PAGES * PAGE, PROT_READ | PROT_WRITE)?;
        let guarded = Self { at, seed };
        for stack in 0..STACKS {
            for page in 1..PAGES {
                // SAFETY: the page is mapped and writable, and nothing else refers to it.
                unsafe { *guarded.word(stack, page) = word(seed, (stack * PAGES + page) as u64) };
            }
            let guard = (at + stack * PAGES * PAGE) as *mut c_void;
            // SAFETY: the page is in the mapping made above.
            if unsafe { madvise(guard, PAGE, MADV_GUARD_INSTALL) } != 0 {
                // Before Linux 6.13 the C library uses a separate mapping.
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(22) {
                    return Err(format!("MADV_GUARD_INSTALL: {error}"));
                }
                // SAFETY: as above.
                let result = unsafe { mprotect(guard, PAGE, PROT_NONE) };
                if result != 0 {
                    return Err(format!("mprotect: {}", io::Error::last_os_error()));
                }
            }
        }
        Ok(guarded)
    }

    fn word(&self, stack: usize, page: usize) -> *mut u64 {
        (self.at + (stack * PAGES + page) * PAGE) as *mut u64
    }

    /// Fails if memory has changed, or if a stack's overflow is not fatal.
    pub(crate) fn verify(&self) -> Result<(), String> {
        for stack in 0..STACKS {
            for page in 1..PAGES {
                // SAFETY: the page is mapped and readable.
                let found = unsafe { self.word(stack, page).read_volatile() };
                if found != word(self.seed, (stack * PAGES + page) as u64) {
                    return Err(format!("page {page} of stack {stack} differs"));
                }
            }
        }
        for stack in [0, STACKS / 2, STACKS - 1] {
            let guard = self.word(stack, 0);
            // SAFETY: the read faults, which kills the child alone.
            let touches = in_child(|| unsafe {
                guard.read_volatile();
                0
            })?;
            if touches.is_some() {
                return Err(format!("stack {stack} has lost its guard"));
            }
        }
        Ok(())
    }
}

/// Reserved address space, as MariaDB and V8 have it: more than any machine's memory,
/// mapped without access, and used in part later.
pub(crate) struct Reserved {
    at: usize,
    seed: u64,
}

impl Reserved {
    pub(crate) fn set_up(seed: u64, tebibytes: usize) -> Result<Self, String> {
        let bytes = tebibytes << 40;
        let at = map_with(bytes, PROT_NONE)? + bytes / 2;
        let reserved = Self { at, seed };
        reserved.open(at)?;
        // SAFETY: `open` has made the page writable.
        unsafe { *(at as *mut u64) = seed };
        Ok(reserved)
    }

    fn open(&self, at: usize) -> Result<(), String> {
        // SAFETY: the page is in the mapping, and nothing else refers to it.
        match unsafe { mprotect(at as *mut c_void, PAGE, PROT_READ | PROT_WRITE) } {
            0 => Ok(()),
            _ => Err(format!("mprotect: {}", io::Error::last_os_error())),
        }
    }

    /// Fails if used memory has changed, or if more cannot be used.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let next = self.at + (16 << 20);
        self.open(next)?;
        // SAFETY: both pages are readable and writable now.
        let (found, fresh) = unsafe {
            let fresh = (next as *const u64).read_volatile();
            (next as *mut u64).write_volatile(0);
            ((self.at as *const u64).read_volatile(), fresh)
        };
        match (found == self.seed, fresh) {
            (true, 0) => Ok(()),
            (true, _) => Err("memory that was never used is not zero".to_owned()),
            (false, _) => Err("memory that was used differs".to_owned()),
        }
    }
}

/// A server that loads its data and then forks its workers.
pub(crate) struct Workers(Vec<UnixStream>);

impl Workers {
    pub(crate) fn fork(data: Option<&Pattern>, workers: usize) -> Result<Self, String> {
        let mut ends: Vec<UnixStream> = Vec::new();
        for _ in 0..workers {
            let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
            // SAFETY: the child continues with this thread alone, and uses only its end
            // of a socket and the data.
            match unsafe { fork() } {
                -1 => return Err(format!("fork: {}", io::Error::last_os_error())),
                0 => {
                    drop((ours, ends));
                    serve(theirs, data)
                }
                _ => ends.push(ours),
            }
        }
        Ok(Self(ends))
    }

    /// Fails unless each worker finds the data unchanged.
    pub(crate) fn verify(&self) -> Result<(), String> {
        for (worker, mut end) in self.0.iter().enumerate() {
            let mut answer = [0];
            end.write_all(b"?")
                .and_then(|()| end.read_exact(&mut answer))
                .map_err(|error| format!("worker {worker}: {error}"))?;
            if answer != *b"y" {
                return Err(format!("worker {worker}: its data differ"));
            }
        }
        Ok(())
    }
}

fn serve(mut end: UnixStream, data: Option<&Pattern>) -> ! {
    let mut question = [0];
    while end.read_exact(&mut question).is_ok() {
        let right = data.is_none_or(|data| data.verify().is_ok());
        if end.write_all(if right { b"y" } else { b"n" }).is_err() {
            break;
        }
    }
    exit(0)
}

/// The exit code of a forked child; `None` if a signal killed it.
fn in_child(act: impl FnOnce() -> c_int) -> Result<Option<c_int>, String> {
    // SAFETY: the child calls nothing but the closure and exit.
    let pid = unsafe { fork() };
    match pid {
        -1 => Err(format!("fork: {}", io::Error::last_os_error())),
        0 => exit(act()),
        _ => {
            let mut status = 0;
            // SAFETY: the status is a live integer.
            unsafe { waitpid(pid, &mut status, 0) };
            Ok((status & 0x7f == 0).then_some(status >> 8 & 0xff))
        }
    }
}
