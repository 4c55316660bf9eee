//! Reads and writes a manifest's file.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::Deserialize;

use super::schema::{Manifest, NAME, WITH_STORE};
use crate::opened::OpenedDir;

/// Size limit of a manifest, in bytes. An entry has about 200 bytes and a process a
/// handful of files, so this is enough for fifty thousand processes.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// Number of values (keys, elements) that a manifest of any size may have. An OCI
/// configuration has some thousand.
const FREE_VALUES: usize = 1 << 16;

/// Bytes of text for each further value. A file's entry has 25 per value without any
/// spaces, so this limits a reader's memory to a few times the size of the text.
const BYTES_PER_VALUE: usize = 16;

/// The reason that a manifest can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    #[error("the checkpoint's {} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a valid manifest.
    #[error("the checkpoint's {} is damaged: {why}; take the checkpoint again or restore another", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The fault.
        why: String,
    },
    /// A newer version wrote it.
    #[error("the checkpoint {} has format {found}, and this cedana-runc reads formats up to {WITH_STORE}: update it, or restore on the node that took the checkpoint", dir.display())]
    Newer {
        /// The checkpoint.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Returns a unique name for a checkpoint: the digest of its manifest's text.
fn fingerprint(text: &[u8]) -> String {
    blake3::hash(text).to_hex().to_string()
}

impl Manifest {
    /// Reads the manifest of the checkpoint in `dir`. `None` if there is none, because a
    /// stock runtime took the checkpoint.
    ///
    /// # Errors
    /// It can't be read, is damaged, or is newer than this version.
    pub fn read(dir: &OpenedDir) -> Result<Option<Self>, Error> {
        Ok(Self::identified(dir)?.map(|(manifest, _)| manifest))
    }

    /// Reads the manifest as [`Self::read`] does, and returns a unique name for the
    /// checkpoint with it: the digest of the manifest's text.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn identified(dir: &OpenedDir) -> Result<Option<(Self, String)>, Error> {
        let file = dir.path().join(NAME);
        let mut text = Vec::new();
        let read = dir
            .file(NAME)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { file, source }),
            Ok(_) => {}
        }
        let manifest = Self::parse(&text).map_err(|fault| match fault {
            Fault::Newer(found) => Error::Newer {
                dir: dir.path().to_owned(),
                found,
            },
            Fault::Invalid(why) => Error::Invalid { file, why },
        })?;
        Ok(Some((manifest, fingerprint(&text))))
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        if text.len() as u64 > MAX_BYTES {
            return Err(Fault::Invalid(format!("larger than {MAX_BYTES} bytes")));
        }
        if values(text) > FREE_VALUES + text.len() / BYTES_PER_VALUE {
            let why = "more values than any checkpoint has";
            return Err(Fault::Invalid(why.to_owned()));
        }
        let invalid = |error: serde_json::Error| Fault::Invalid(error.to_string());
        // The format is checked first, because the other keys may differ in a newer one.
        match serde_json::from_slice(text).map_err(invalid)? {
            Head { format: 0 } => return Err(Fault::Invalid("format 0".to_owned())),
            Head { format } if format > WITH_STORE => return Err(Fault::Newer(format)),
            Head { .. } => {}
        }
        let manifest: Self = serde_json::from_slice(text).map_err(invalid)?;
        manifest.check().map_err(Fault::Invalid)?;
        Ok(manifest)
    }

    /// Returns the text of the manifest.
    ///
    /// # Errors
    /// It exceeds the size limit.
    pub fn render(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        match text.len() as u64 {
            ..=MAX_BYTES => Ok(text),
            length => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a manifest of {length} bytes"),
            )),
        }
    }
}

/// The number of values in a JSON text, or more: its commas and opening brackets outside
/// of strings. A value takes up to 100 bytes of memory, and can have two bytes of text.
fn values(text: &[u8]) -> usize {
    let mut values = 0;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// The fault of a manifest's text.
#[derive(Debug)]
pub(crate) enum Fault {
    Newer(u32),
    Invalid(String),
}
