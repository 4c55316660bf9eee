//! Reads and writes a manifest's file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::schema::{FORMAT, Manifest, NAME};

/// Size limit of a manifest, in bytes. An entry has about 200 bytes and a process a
/// handful of files, so this is enough for fifty thousand processes.
const MAX_BYTES: u64 = 64 << 20;

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
    #[error("the checkpoint {} has format {found}, and this cedana-runc reads formats up to {FORMAT}: update it, or restore on the node that took the checkpoint", dir.display())]
    Newer {
        /// The checkpoint.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Returns a unique name for the checkpoint in `dir`: its manifest's digest.
///
/// # Errors
/// The manifest is missing or can't be read.
pub fn fingerprint(dir: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(dir.join(NAME))?
        .take(MAX_BYTES)
        .read_to_end(&mut text)?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

impl Manifest {
    /// Reads the manifest of the checkpoint in `dir`. `None` if there is none, because a
    /// stock runtime took the checkpoint.
    ///
    /// # Errors
    /// It can't be read, is damaged, or is newer than this version.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let file = dir.join(NAME);
        let mut text = Vec::new();
        let read =
            File::open(&file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { file, source }),
            Ok(_) => {}
        }
        Self::parse(&text).map(Some).map_err(|fault| match fault {
            Fault::Newer(found) => Error::Newer {
                dir: dir.to_owned(),
                found,
            },
            Fault::Invalid(why) => Error::Invalid { file, why },
        })
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        if text.len() as u64 > MAX_BYTES {
            return Err(Fault::Invalid(format!("larger than {MAX_BYTES} bytes")));
        }
        let invalid = |error: serde_json::Error| Fault::Invalid(error.to_string());
        // The format is checked first, because the other keys may differ in a newer one.
        match serde_json::from_slice(text).map_err(invalid)? {
            Head { format: 0 } => return Err(Fault::Invalid("format 0".to_owned())),
            Head { format } if format > FORMAT => return Err(Fault::Newer(format)),
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

/// The fault of a manifest's text.
#[derive(Debug)]
pub(super) enum Fault {
    Newer(u32),
    Invalid(String),
}
