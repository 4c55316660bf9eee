//! A page image that is being stored: CRIU's file and the stored one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use cedana_store::session::Part;

use crate::format::manifest::{Entry, Kind};
use crate::format::pages::{Compression, Digest, FRAME, TableBuilder, Writer};

use super::archive::Tar;
use super::chunks::Chunks;
use super::disk::{Queue, Stream, create};
use super::error::{Error, at};
use super::shared::Shared;

/// A page image that is being stored.
pub(super) struct PageFile {
    pub(super) name: String,
    /// Its place in the order of all page files.
    pub(super) number: usize,
    pub(super) path: PathBuf,
    pub(super) raw: File,
    out: Mutex<Out>,
    /// The chunks of its memory, if it goes to the store.
    pub(super) chunks: Mutex<Chunks>,
}

/// The stored file, to which pieces are appended in order.
pub(super) struct Out {
    /// Raw bytes of the written pieces: the offset of the next one.
    pub(super) turn: u64,
    /// Pieces that are ready before their turn, by offset.
    pub(super) ready: BTreeMap<u64, Ready>,
    /// `None` while a worker is writing, at the end, and until an archive's turn.
    pub(super) sink: Option<Sink>,
}

/// The destination of pieces.
pub(super) enum Sink {
    Frames {
        writer: Writer<Stream>,
        path: PathBuf,
    },
    Digests(TableBuilder),
    /// An archive's entry of compressed frames.
    Entry(Writer<Tar>),
    /// An archive's entry of frames as they are.
    Raw {
        tar: Tar,
        table: TableBuilder,
    },
}

/// A completely stored page image.
pub(super) struct Stored {
    pub(super) raw_path: PathBuf,
    pub(super) entries: Vec<Entry>,
    /// Bytes that CRIU wrote, and those of the stored files.
    pub(super) raw_bytes: u64,
    pub(super) stored_bytes: u64,
    /// The archive, for the next page file.
    pub(super) tar: Option<Tar>,
    /// The chunks, if the memory is in the store.
    pub(super) parts: Option<Vec<Part>>,
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
    /// Opens a page image, and creates the file that it is stored in, unless it is an
    /// archive.
    pub(super) fn open(
        dir: &Path,
        name: &str,
        number: usize,
        shared: &Shared,
    ) -> Result<Self, Error> {
        let (compression, queue) = (shared.compression, shared.queue());
        let path = dir.join(name);
        let raw = OpenOptions::new()
            .read(true)
            .write(shared.copies())
            .open(&path)
            .map_err(at("open", &path))?;
        let sink = match compression {
            _ if shared.is_archive() || shared.session.is_some() => None,
            Compression::None => Some(Sink::Digests(TableBuilder::new(FRAME))),
            Compression::Zstd { .. } => {
                let path = dir.join(stored_name(name, compression).0);
                let stream = Stream::create(&path, queue).map_err(at("make", &path))?;
                Some(Sink::Frames {
                    writer: Writer::new(stream, FRAME),
                    path,
                })
            }
        };
        Ok(Self {
            name: name.to_owned(),
            number,
            path,
            raw,
            out: Mutex::new(Out {
                turn: 0,
                ready: BTreeMap::new(),
                sink,
            }),
            chunks: Mutex::default(),
        })
    }

    /// Begins its entry in an archive.
    pub(super) fn begin(&self, mut tar: Tar, compression: Compression) -> Result<Sink, Error> {
        let (name, _) = stored_name(&self.name, compression);
        tar.begin(&name).map_err(at("write", &self.path))?;
        Ok(match compression {
            Compression::None => Sink::Raw {
                tar,
                table: TableBuilder::new(FRAME),
            },
            Compression::Zstd { .. } => Sink::Entry(Writer::new(tar, FRAME)),
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
                Sink::Entry(writer) => {
                    let (frame, rest) = stored.split_at(*length);
                    writer
                        .frame(*raw, frame, *digest)
                        .map_err(at("write", &self.path))?;
                    stored = rest;
                }
                Sink::Raw { tar, table } => {
                    let (frame, rest) = stored.split_at(*length);
                    table
                        .frame(*raw, *raw, *digest)
                        .and_then(|()| tar.write_all(frame))
                        .map_err(at("write", &self.path))?;
                    stored = rest;
                }
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
        let mut tar = None;
        let failed = at("write", &self.path);
        let (summary, entries) = match sink {
            Sink::Entry(writer) => {
                let (mut archive, summary) = writer.finish().map_err(&failed)?;
                archive.end().map_err(&failed)?;
                tar = Some(archive);
                let entry = Entry::pages(&name, kind, &summary);
                (summary, vec![entry])
            }
            Sink::Raw {
                tar: mut archive,
                table,
            } => {
                let (trailer, summary) = table.finish();
                let table_name = table_name(&name);
                let written = archive
                    .end()
                    .and_then(|_| archive.begin(&table_name))
                    .and_then(|()| archive.write_all(&trailer))
                    .and_then(|()| archive.end());
                let size = written.map_err(&failed)?;
                tar = Some(archive);
                let digest = summary.table_digest;
                let entries = vec![
                    Entry::pages(&name, kind, &summary),
                    Entry::whole(&table_name, Kind::Table, size, digest),
                ];
                (summary, entries)
            }
            Sink::Frames { writer, path } => {
                let (stream, summary) = writer.finish().map_err(at("write", &path))?;
                stream.end().map_err(at("write", &path))?;
                let entry = Entry::pages(&name, kind, &summary);
                (summary, vec![entry])
            }
            Sink::Digests(table) => {
                let (trailer, summary) = table.finish();
                let table_name = table_name(&name);
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
            raw_bytes: summary.raw_bytes,
            stored_bytes: summary.stored_bytes,
            tar,
            parts: None,
        })
    }
}

/// The name of an uncompressed page file's trailer.
fn table_name(name: &str) -> String {
    format!("{name}.table")
}

/// Name and kind of the file that a page image is stored as.
fn stored_name(name: &str, compression: Compression) -> (String, Kind) {
    match compression {
        Compression::None => (name.to_owned(), Kind::Plain),
        Compression::Zstd { .. } => (format!("{name}.zst"), Kind::Pages),
    }
}
