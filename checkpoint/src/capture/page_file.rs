//! A page image that is being stored: CRIU's file and the stored one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::format::manifest::{Entry, Kind};
use crate::format::pages::{Compression, Digest, FRAME, Summary, TableBuilder, Writer};

use super::disk::{Queue, Stream, create};
use super::error::{Error, at};

/// A page image that is being stored.
pub(super) struct PageFile {
    name: String,
    pub(super) path: PathBuf,
    pub(super) raw: File,
    out: Mutex<Out>,
}

/// The stored file, to which pieces are appended in order.
pub(super) struct Out {
    /// Raw bytes of the written pieces: the offset of the next one.
    pub(super) turn: u64,
    /// Pieces that are ready before their turn, by offset.
    pub(super) ready: BTreeMap<u64, Ready>,
    /// `None` while a worker is writing, and at the end.
    pub(super) sink: Option<Sink>,
}

/// The destination of pieces.
pub(super) enum Sink {
    Frames {
        writer: Writer<Stream>,
        path: PathBuf,
    },
    Digests(TableBuilder),
}

/// A completely stored page image.
pub(super) struct Stored {
    pub(super) raw_path: PathBuf,
    pub(super) entries: Vec<Entry>,
    pub(super) summary: Summary,
}

/// A compressed piece that has to be written.
pub(super) struct Ready {
    pub(super) length: u64,
    pub(super) last: bool,
    /// The frames, one after the other.
    pub(super) stored: Vec<u8>,
    /// Raw and stored length of each frame, and its digest.
    pub(super) frames: Vec<(u32, usize, Digest)>,
}

impl PageFile {
    /// Opens a page image, and creates the file that it is stored in.
    pub(super) fn open(
        dir: &Path,
        name: &str,
        compression: Compression,
        queue: Option<Queue>,
    ) -> Result<Self, Error> {
        let path = dir.join(name);
        let raw = OpenOptions::new()
            .read(true)
            .write(compression != Compression::None)
            .open(&path)
            .map_err(at("open", &path))?;
        let sink = match compression {
            Compression::None => Sink::Digests(TableBuilder::new(FRAME)),
            Compression::Zstd { .. } => {
                let path = dir.join(stored_name(name, compression).0);
                let stream = Stream::create(&path, queue).map_err(at("make", &path))?;
                Sink::Frames {
                    writer: Writer::new(stream, FRAME),
                    path,
                }
            }
        };
        Ok(Self {
            name: name.to_owned(),
            path,
            raw,
            out: Mutex::new(Out {
                turn: 0,
                ready: BTreeMap::new(),
                sink: Some(sink),
            }),
        })
    }

    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a piece.
    pub(super) fn append(&self, sink: &mut Sink, piece: &Ready) -> Result<(), Error> {
        let mut stored = &piece.stored[..];
        for (raw, length, digest) in &piece.frames {
            match sink {
                Sink::Frames { writer, path, .. } => {
                    let (frame, rest) = stored.split_at(*length);
                    writer
                        .frame(*raw, frame, *digest)
                        .map_err(at("write", path))?;
                    stored = rest;
                }
                Sink::Digests(table) => table
                    .frame(*raw, *raw, *digest)
                    .map_err(at("digest", &self.path))?,
            }
        }
        Ok(())
    }

    /// Punches a hole into CRIU's file where it is stored. False if the file system can't
    /// punch holes.
    pub(super) fn punch(&self, offset: u64, length: u64) -> Result<bool, Error> {
        if length == 0 {
            return Ok(true);
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // File offsets fit: the kernel's are signed, too.
        match fallocate(&self.raw, flags, offset as i64, length as i64) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(errno) => Err(at("punch a hole into", &self.path)(errno.into())),
        }
    }

    /// Writes the trailer, after the last piece.
    pub(super) fn finish(
        &self,
        sink: Sink,
        compression: Compression,
        queue: Option<&Queue>,
    ) -> Result<Stored, Error> {
        let (name, kind) = stored_name(&self.name, compression);
        let (summary, entries) = match sink {
            Sink::Frames { writer, path } => {
                let (stream, summary) = writer.finish().map_err(at("write", &path))?;
                stream.end().map_err(at("write", &path))?;
                let entry = Entry::pages(&name, kind, &summary);
                (summary, vec![entry])
            }
            Sink::Digests(table) => {
                let (trailer, summary) = table.finish();
                let table_name = format!("{name}.table");
                let path = self.path.with_file_name(&table_name);
                let table = create(&path).map_err(at("make", &path))?;
                (&table).write_all(&trailer).map_err(at("write", &path))?;
                if let Some(queue) = queue {
                    let raw = File::open(&self.path).map_err(at("open", &self.path))?;
                    queue.begin(Arc::new(raw));
                }
                let size = trailer.len() as u64;
                let entries = vec![
                    Entry::pages(&name, kind, &summary),
                    Entry::whole(&table_name, Kind::Table, size, summary.table_digest),
                ];
                (summary, entries)
            }
        };
        Ok(Stored {
            raw_path: self.path.clone(),
            entries,
            summary,
        })
    }
}

/// Name and kind of the file that a page image is stored as.
fn stored_name(name: &str, compression: Compression) -> (String, Kind) {
    match compression {
        Compression::None => (name.to_owned(), Kind::Plain),
        Compression::Zstd { .. } => (format!("{name}.zst"), Kind::Pages),
    }
}
