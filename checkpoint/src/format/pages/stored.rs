//! Opens page files, and other files that are verified in frames.

use std::io;
use std::path::{Path, PathBuf};

use super::damage::Damage;
use super::digest::Digest;
use super::frame::FRAME;
use super::reader::{Content, Form, Reader};
use super::trailer::{check, length, trailer_of, unfit};
use super::writer::TableBuilder;
use crate::opened::{Part, open_file};

/// A file of a checkpoint, opened once.
#[derive(Debug)]
pub struct Stored {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The file.
    pub file: Part,
}

impl Stored {
    /// Opens a file by its path. It must be a regular file with one link.
    ///
    /// # Errors
    /// It is missing, refused, or can't be opened.
    pub fn open(path: &Path) -> Result<Self, Damage> {
        let path = path.to_owned();
        match open_file(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Damage::Read { file: path, source }),
        }
    }
}

impl Reader {
    /// Opens a compressed page file by its path. `digest` is the trailer's; without it the
    /// trailer is only checked for consistency.
    ///
    /// # Errors
    /// The file can't be read, or its trailer is damaged.
    pub fn open(path: &Path, digest: Option<blake3::Hash>) -> Result<Self, Damage> {
        Self::compressed(Stored::open(path)?, digest, None)
    }

    /// Reads the trailer of a compressed page file. `digest` is the trailer's, and
    /// `frames` the number of frames, from the manifest.
    ///
    /// # Errors
    /// The file can't be read, or its trailer is damaged.
    pub fn compressed(
        Stored { path, file }: Stored,
        digest: Option<blake3::Hash>,
        frames: Option<u64>,
    ) -> Result<Self, Damage> {
        let length = length(&file, &path)?;
        let trailer = trailer_of(&file, length, &path, frames)?;
        let table = check(&path, &trailer, digest)?;
        if table.stored_bytes() != length - trailer.len() as u64 {
            return Err(unfit(&path));
        }
        Ok(Self {
            file,
            path,
            content: Content::Frames {
                table,
                form: Form::Zstd,
            },
        })
    }

    /// Opens an uncompressed page file, whose trailer is the file `table`.
    ///
    /// # Errors
    /// One of the files can't be read, or the trailer is damaged or of another file.
    pub fn plain(
        Stored { path, file }: Stored,
        table: &Stored,
        digest: Option<blake3::Hash>,
        frames: Option<u64>,
    ) -> Result<Self, Damage> {
        let table_length = length(&table.file, &table.path)?;
        let trailer = trailer_of(&table.file, table_length, &table.path, frames)?;
        if trailer.len() as u64 != table_length {
            return Err(unfit(&table.path));
        }
        let trailer = check(&table.path, &trailer, digest)?;
        // Each frame is compared, because equal sums alone could hide a difference.
        let as_it_is = (0..trailer.frames()).all(|frame| {
            trailer
                .stored(frame)
                .is_some_and(|(_, stored)| stored == trailer.raw_len(frame))
        });
        if !as_it_is || trailer.raw_bytes() != length(&file, &path)? {
            return Err(unfit(&path));
        }
        Ok(Self {
            file,
            path,
            content: Content::Frames {
                table: trailer,
                form: Form::AsItIs,
            },
        })
    }

    /// Verifies a file that has one digest for all of it, and takes the digests of its
    /// frames meanwhile. So the file is verified again, frame by frame, when it is read.
    ///
    /// # Errors
    /// The file can't be read, or does not have this size and digest.
    pub fn digested(
        Stored { path, file }: Stored,
        size: u64,
        digest: Option<blake3::Hash>,
    ) -> Result<Self, Damage> {
        let mut table = TableBuilder::new(FRAME);
        let mut hasher = blake3::Hasher::new();
        let mut frame = vec![0; FRAME as usize];
        let mut at = 0;
        let mut read = || -> io::Result<()> {
            while at < size {
                let length = (size - at).min(u64::from(FRAME)) as usize;
                let frame = &mut frame[..length];
                file.read_exact_at(frame, at)?;
                hasher.update(frame);
                table.frame(length as u32, length as u32, Digest::of(frame))?;
                at += length as u64;
            }
            Ok(())
        };
        read().map_err(|source| Damage::Read {
            file: path.clone(),
            source,
        })?;
        if Some(hasher.finalize()) != digest {
            return Err(Damage::Foreign { file: path });
        }
        let (trailer, _) = table.finish();
        let table = check(&path, &trailer, None)?;
        Ok(Self {
            file,
            path,
            content: Content::Frames {
                table,
                form: Form::AsItIs,
            },
        })
    }
}
