//! Where a checkpoint finds the page source of the container that it is of.
//!
//! A socket under `/run/cedana/lazy`, named by init's PID and its start time. It
//! is there from before the restore reports success until memory is complete.
//! Whoever connects wants that to be soon, and hears `done` when it is; an end
//! without a word means that it will never be.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::known;

/// The source's side.
pub(super) struct Door {
    path: PathBuf,
    listener: UnixListener,
    guests: Vec<UnixStream>,
}

impl Door {
    pub(super) fn open(init: i32) -> io::Result<Self> {
        let path = known(init).ok_or(ErrorKind::NotFound)?;
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        // No other process was ever named so.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            path,
            listener,
            guests: Vec::new(),
        })
    }

    /// Lets in who waits; whether there was anybody.
    pub(super) fn let_in(&mut self) -> bool {
        let before = self.guests.len();
        while let Ok((guest, _)) = self.listener.accept() {
            self.guests.push(guest);
        }
        self.guests.len() > before
    }

    /// Writes a word to each checkpoint that waits; the socket stays.
    pub(super) fn answer(&mut self, word: &str) {
        for mut guest in self.guests.drain(..) {
            // A checkpoint that was interrupted does not read it.
            let _ = guest.write_all(word.as_bytes());
        }
    }

    /// Takes the socket away, and gives everybody their word.
    pub(super) fn close(mut self, word: Option<&str>) {
        // In this order: nobody can come in after the last look.
        let _ = fs::remove_file(&self.path);
        self.let_in();
        self.answer(word.unwrap_or_default());
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
