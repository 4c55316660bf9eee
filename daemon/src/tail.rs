//! Reading a file that another process appends to.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The bytes that are read at once.
const CHUNK: usize = 32 << 10;

/// A file that grows.
#[derive(Debug)]
pub struct Tail {
    file: File,
    changes: AsyncFd<Changes>,
}

#[derive(Debug)]
struct Changes(Inotify);

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Tail {
    /// Opens a regular file, at its beginning or before its last lines.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, lines: Option<u64>) -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            // A pipe would block here.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata().as_ref().is_ok_and(Metadata::is_file) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // Through the descriptor, so that it is the same file.
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        inotify.add_watch(opened.as_str(), AddWatchFlags::IN_MODIFY)?;
        if let Some(lines) = lines {
            let from = last_lines(&file, lines)?;
            file.seek(SeekFrom::Start(from))?;
        }
        Ok(Self {
            file,
            changes: sys::register_readable(Changes(inotify))?,
        })
    }

    /// What was appended; empty at the end of the file.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        // The program may have truncated its output.
        let length = self.file.metadata()?.len();
        if self.file.stream_position()? > length {
            self.file.seek(SeekFrom::Start(0))?;
        }
        let mut chunk = vec![0; CHUNK];
        let n = self.file.read(&mut chunk)?;
        chunk.truncate(n);
        Ok(chunk)
    }

    /// Waits until the file was written to.
    ///
    /// # Errors
    /// The system's.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.changes.readable().await?;
            let read =
                ready.try_io(|changes| changes.get_ref().0.read_events().map_err(Into::into));
            match read {
                Ok(events) => return events.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// The most bytes that are searched for the last lines: a file of no text could be
/// terabytes long.
const MAX_BACK: u64 = 16 << 20;

/// The offset of the last lines, at most [`MAX_BACK`] bytes from the end.
fn last_lines(file: &File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let least = end.saturating_sub(MAX_BACK);
    let mut missing = lines;
    let mut last = true;
    let mut chunk = vec![0; CHUNK];
    while end > least {
        let begin = end.saturating_sub(CHUNK as u64).max(least);
        // At most CHUNK.
        let part = &mut chunk[..(end - begin) as usize];
        file.read_exact_at(part, begin)?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' && !last {
                missing = missing.saturating_sub(1);
            }
            if missing == 0 {
                return Ok(begin + index as u64 + 1);
            }
            last = false;
        }
        end = begin;
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn from(text: &str, lines: u64) -> String {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let from = last_lines(&file, lines).expect("an offset");
        text[usize::try_from(from).expect("small")..].to_owned()
    }

    #[test]
    fn the_last_lines_may_lack_their_newline() {
        assert_eq!(from("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(from("a\nb\nc", 2), "b\nc");
        assert_eq!(from("a\n", 5), "a\n");
        assert_eq!(from("", 5), "");
        let long = format!("{}\nlast\n", "x".repeat(2 * CHUNK));
        assert_eq!(from(&long, 1), "last\n");
        assert_eq!(from(&long, 2), long);
    }

    #[test]
    fn a_file_of_no_text_is_not_searched_whole() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 40).expect("a sparse file");
        let from = last_lines(&file, 1).expect("an offset");
        assert_eq!(from, (1 << 40) - MAX_BACK);
    }

    #[test]
    fn no_lines_are_none() {
        assert_eq!(from("a\nb\n", 0), "");
    }

    #[tokio::test]
    async fn what_is_appended_wakes_the_reader() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut file = File::create(&path).expect("a file");
        let mut tail = Tail::open(&path, None).expect("opened");
        assert!(tail.read().expect("read").is_empty());
        file.write_all(b"more").expect("written");
        tail.changed().await.expect("changed");
        assert_eq!(tail.read().expect("read"), b"more");
        file.set_len(0).expect("truncated");
        assert!(Tail::open(dir.path(), None).is_err());
    }
}
