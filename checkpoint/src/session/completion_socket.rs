//! The completion socket of a page source, under `/run/cedana/lazy`.
//!
//! It is named by init's PID and start time, and exists from before the restore
//! reports success until memory is complete. A checkpoint connects to ask for all
//! remaining pages; the source writes `done` when they are resident. EOF without an
//! answer means that it failed.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::host::procfs;
use cedana_contract::pid::Pid;

const DIR: &str = "/run/cedana/lazy";

/// The answer when all pages are resident.
pub(super) const DONE: &str = "done";

/// The answer when the container's memory limit has no room for the pages.
pub(super) const NO_ROOM: &str = "no room";

/// The completion socket of the container with this init; `None` if init has ended.
pub(super) fn path(init: Pid) -> Option<PathBuf> {
    let started = procfs::started(init)?;
    Some(Path::new(DIR).join(format!("{init}-{started}")))
}

/// Removes the sockets of containers that have ended: a page source that is killed
/// together with its watchdog leaves one.
fn remove_stale(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.split_once('-'));
        let Some((init, started)) = parts else {
            continue;
        };
        let (Ok(init), Ok(started)) = (init.parse(), started.parse::<u64>()) else {
            continue;
        };
        if procfs::started(init) != Some(started) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The source's end.
pub(super) struct CompletionSocket {
    path: PathBuf,
    listener: UnixListener,
    checkpoints: Vec<UnixStream>,
}

impl CompletionSocket {
    pub(super) fn open(init: Pid) -> io::Result<Self> {
        let path = self::path(init).ok_or(ErrorKind::NotFound)?;
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        remove_stale(Path::new(DIR));
        // A PID and a start time name one process only, so the file is a leftover.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            path,
            listener,
            checkpoints: Vec::new(),
        })
    }

    /// Accepts the checkpoints that have connected, and returns whether one had.
    pub(super) fn accept(&mut self) -> bool {
        let before = self.checkpoints.len();
        while let Ok((checkpoint, _)) = self.listener.accept() {
            self.checkpoints.push(checkpoint);
        }
        self.checkpoints.len() > before
    }

    /// Answers each checkpoint that waits. The socket stays.
    pub(super) fn answer(&mut self, answer: &str) {
        for mut checkpoint in self.checkpoints.drain(..) {
            // An interrupted checkpoint does not read it.
            let _ = checkpoint.write_all(answer.as_bytes());
        }
    }

    /// Removes the socket and answers each checkpoint; `None` is EOF alone.
    pub(super) fn close(mut self, answer: Option<&str>) {
        // In this order: no checkpoint can connect after the last accept.
        let _ = fs::remove_file(&self.path);
        self.accept();
        self.answer(answer.unwrap_or_default());
    }
}

impl AsFd for CompletionSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_ended_containers_are_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let own = Pid::own();
        let started = procfs::started(own).expect("this process runs");
        let name = |started: u64| dir.path().join(format!("{own}-{started}"));
        for path in [name(started), name(started + 1), dir.path().join("other")] {
            fs::write(path, "").expect("write");
        }
        remove_stale(dir.path());
        assert!(name(started).exists());
        assert!(!name(started + 1).exists());
        assert!(dir.path().join("other").exists());
    }
}
