//! Files that are held open in ways a checkpoint finds hard.

use std::fs::{self, File};
use std::io::{self, Write};

use crate::memory::{content, same_content};
use crate::sys;

/// An open file with known content.
pub(crate) struct Held {
    seed: u64,
    size: usize,
    file: File,
}

impl Held {
    /// At a path that stays.
    pub(crate) fn create(path: &str, seed: u64, size: usize) -> io::Result<Self> {
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(path)?;
        file.write_all(&content(seed, size))?;
        Ok(Self { seed, size, file })
    }

    /// Deleted while open: exists through this descriptor only.
    pub(crate) fn deleted(seed: u64, size: usize) -> io::Result<Self> {
        let path = format!("/tmp/deleted-{}", std::process::id());
        let held = Self::create(&path, seed, size)?;
        fs::remove_file(path)?;
        Ok(held)
    }

    /// Opened under a name that is gone while the file has another.
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

/// A flock(2) that nobody else can have while this one is held.
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
            Ok(()) => Err("the lock was free".into()),
        }
    }
}
