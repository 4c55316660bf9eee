//! An archive of ours that is being written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::error::{Error, read, write};
use super::frames::{Encoders, Side, fill};
use super::{Context, Report};
use crate::archive::Writer;
use crate::format::manifest::{self, Entry, Kind, Manifest};
use crate::format::pages::Compression;
use crate::progress::{Phase, Progress};

/// Bytes that are copied at once.
const BUFFER: usize = 1 << 20;

/// See the module's documentation.
pub(super) struct New<'a> {
    pub(super) context: &'a Context<'a>,
    writer: Writer,
    encoders: Encoders,
    shown: &'a Path,
    /// The files that were added, for the manifest.
    pub(super) entries: Vec<Entry>,
    tally: Tally,
}

/// How far it is: bytes of memory, and bytes in the file.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    raw: u64,
    raw_stored: u64,
    copied: u64,
}

impl<'a> New<'a> {
    pub(super) fn begin(
        file: &File,
        shown: &'a Path,
        context: &'a Context<'a>,
    ) -> Result<Self, Error> {
        Ok(Self {
            context,
            writer: Writer::new(file).map_err(write(shown))?,
            encoders: Encoders::new(context.compression).map_err(write(shown))?,
            shown,
            entries: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Adds a file as it is. `from` names it in errors.
    pub(super) fn add(
        &mut self,
        name: &str,
        input: &mut dyn Read,
        from: &Path,
    ) -> Result<(), Error> {
        let (size, digest) = self.copy(name, input, from)?;
        let kind = match name.ends_with(".img") {
            true => Kind::Image,
            false => Kind::Other,
        };
        self.entries.push(Entry::whole(name, kind, size, digest));
        Ok(())
    }

    /// Adds a file that is in memory.
    pub(super) fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.add(name, &mut &bytes[..], self.shown)
    }

    /// Copies a file, which is in no list yet. Returns its length and digest.
    pub(super) fn copy(
        &mut self,
        name: &str,
        input: &mut dyn Read,
        from: &Path,
    ) -> Result<(u64, blake3::Hash), Error> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        self.writer.begin(name).map_err(write(self.shown))?;
        loop {
            if (self.context.cancelled)() {
                return Err(Error::Cancelled);
            }
            let length = fill(input, &mut buffer).map_err(read(from))?;
            hasher.update(&buffer[..length]);
            let written = self.writer.write_all(&buffer[..length]);
            written.map_err(write(self.shown))?;
            self.tally.copied += length as u64;
            self.tell();
            if length < buffer.len() {
                break;
            }
        }
        let size = self.writer.end().map_err(write(self.shown))?;
        Ok((size, hasher.finalize()))
    }

    /// Adds a page file, whose bytes are those that CRIU wrote under `name`.
    pub(super) fn add_pages(
        &mut self,
        name: &str,
        input: &mut dyn Read,
        from: &Path,
    ) -> Result<(), Error> {
        let is_compressed = self.context.compression != Compression::None;
        let (stored_name, kind) = match is_compressed {
            true => (format!("{name}.zst"), Kind::Pages),
            false => (name.to_owned(), Kind::Plain),
        };
        let failed = write(self.shown);
        self.writer.begin(&stored_name).map_err(&failed)?;
        let (context, tally) = (self.context, &mut self.tally);
        let stored = self.encoders.store(input, &mut self.writer, |raw, stored| {
            tally.raw += raw;
            tally.raw_stored += stored;
            (context.observer)(tally.progress());
            match (context.cancelled)() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            }
        });
        let (trailer, summary) = stored.map_err(|side| match side {
            _ if (context.cancelled)() => Error::Cancelled,
            Side::Read(source) => read(from)(source),
            Side::Write(source) => failed(source),
        })?;
        self.entries
            .push(Entry::pages(&stored_name, kind, &summary));
        if is_compressed {
            self.writer.write_all(&trailer).map_err(&failed)?;
            self.writer.end().map_err(&failed)?;
            return Ok(());
        }
        self.writer.end().map_err(&failed)?;
        let table = format!("{name}.table");
        let digest = self.writer.add(&table, &trailer).map_err(&failed)?;
        let size = trailer.len() as u64;
        self.entries
            .push(Entry::whole(&table, Kind::Table, size, digest));
        Ok(())
    }

    /// Ends the archive with a manifest of the files that were added.
    pub(super) fn finish(mut self, mut manifest: Manifest) -> Result<Report, Error> {
        self.entries.sort_by(|a, b| a.name.cmp(&b.name));
        manifest.files = std::mem::take(&mut self.entries);
        manifest.format = Manifest::format_of(&manifest.files);
        (manifest.cost.raw_bytes, manifest.cost.stored_bytes) = sizes(&manifest);
        if let Some(key) = &self.context.key
            && manifest.signature.is_some()
        {
            manifest.sign(key).map_err(write(self.shown))?;
        }
        let text = manifest.render().map_err(write(self.shown))?;
        self.finish_with(&text, manifest)
    }

    /// Ends the archive with the text of its manifest.
    pub(super) fn finish_with(mut self, text: &[u8], manifest: Manifest) -> Result<Report, Error> {
        let failed = write(self.shown);
        self.writer.add(manifest::NAME, text).map_err(&failed)?;
        (self.context.observer)(Progress {
            phase: Phase::Sync,
            ..self.tally.progress()
        });
        self.writer.finish(manifest.created).map_err(failed)?;
        let (raw_bytes, stored_bytes) = sizes(&manifest);
        Ok(Report {
            raw_bytes,
            stored_bytes,
            manifest,
        })
    }

    fn tell(&self) {
        (self.context.observer)(self.tally.progress());
    }
}

impl Tally {
    fn progress(self) -> Progress {
        let done = self.raw.saturating_add(self.copied);
        Progress {
            phase: Phase::Compress,
            raw: done,
            done,
            stored: self.raw_stored.saturating_add(self.copied),
        }
    }
}

/// Bytes of memory, raw and stored, that a manifest lists.
fn sizes(manifest: &Manifest) -> (u64, u64) {
    let pages = manifest.files.iter().filter_map(|entry| {
        let pages = entry.pages?;
        Some((pages.raw_size, entry.size))
    });
    pages.fold((0, 0), |(raw, stored), (more_raw, more)| {
        (raw.saturating_add(more_raw), stored.saturating_add(more))
    })
}
