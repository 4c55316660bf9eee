//! Open files that are hard to checkpoint.

use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::memory::{content, same_content};
use crate::sys;

/// An open file with known content.
pub(crate) struct Held {
    seed: u64,
    size: usize,
    file: File,
}

impl Held {
    /// A file that keeps its path.
    pub(crate) fn create(path: &str, seed: u64, size: usize) -> io::Result<Self> {
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(path)?;
        file.write_all(&content(seed, size))?;
        Ok(Self { seed, size, file })
    }

    /// A deleted file, which exists through this descriptor only.
    pub(crate) fn deleted(seed: u64, size: usize) -> io::Result<Self> {
        let path = format!("/tmp/deleted-{}", std::process::id());
        let held = Self::create(&path, seed, size)?;
        fs::remove_file(path)?;
        Ok(held)
    }

    /// A file that was opened under a name that is removed, and has another name.
    pub(crate) fn with_another_name(seed: u64) -> io::Result<Self> {
        let path = format!("/tmp/first-{}", std::process::id());
        let held = Self::create(&path, seed, 64 << 10)?;
        fs::hard_link(&path, format!("/tmp/second-{}", std::process::id()))?;
        fs::remove_file(path)?;
        Ok(held)
    }

    pub(crate) fn verify(&mut self) -> Result<(), String> {
        same_content(&self.file, self.seed, self.size)
    }
}

/// An exclusive flock(2).
pub(crate) struct Lock {
    path: String,
    _file: File,
}

impl Lock {
    pub(crate) fn take(path: &str) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        sys::lock(&file)?;
        Ok(Self {
            path: path.to_owned(),
            _file: file,
        })
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        let other = File::open(&self.path).map_err(|e| e.to_string())?;
        match sys::lock(&other) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e.to_string()),
            Ok(()) => Err("the lock is not held".into()),
        }
    }
}

/// A file that grows until the process exits: its nonce, then the numbers from 1, one
/// per line, written through one descriptor.
pub(crate) struct Journal {
    nonce: String,
    path: String,
    written: Arc<Mutex<u64>>,
}

impl Journal {
    /// Starts a new journal, over that of an earlier process. The first line ends in
    /// `spaces` spaces.
    pub(crate) fn begin(path: &str, nonce: u64, spaces: usize) -> io::Result<Self> {
        let nonce = format!("{nonce:016x}");
        fs::write(path, format!("{nonce}{}\n", " ".repeat(spaces)))?;
        let mut file = File::options().append(true).open(path)?;
        let written = Arc::new(Mutex::new(0));
        let growing = Arc::clone(&written);
        thread::spawn(move || {
            loop {
                {
                    let mut n = growing.lock().unwrap_or_else(PoisonError::into_inner);
                    // One write for a line, so a reader never sees half of one.
                    if file.write_all(format!("{}\n", *n + 1).as_bytes()).is_err() {
                        return;
                    }
                    *n += 1;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self {
            nonce,
            path: path.to_owned(),
            written,
        })
    }

    /// Fails unless every line follows the one before, and the last has the number in
    /// memory. Numbers may step back, since a restored process may have written less.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let text = fs::read_to_string(&self.path).map_err(|e| e.to_string())?;
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(&self.nonce) {
            return Err("another process's journal".into());
        }
        let mut last = 0;
        for line in lines {
            let n: u64 = line.parse().map_err(|_| format!("a line {line:?}"))?;
            if n > last + 1 || n == 0 {
                return Err(format!("{n} follows {last}"));
            }
            last = n;
        }
        match last == *written {
            true => Ok(()),
            false => Err(format!("{written} lines written, the last is {last}")),
        }
    }
}
