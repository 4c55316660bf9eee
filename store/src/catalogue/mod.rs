//! The catalogue: what the store holds, in SQLite.
//!
//! Several processes have it open at once. Readers see the state of one moment; a writer
//! waits for another one. It is made durable with each transaction, because a checkpoint
//! is announced right after it. Whole or not at all: packs, chunks and their checkpoint
//! are one transaction.
//!
//! SQLite's cache is small: a process reads a few thousand rows once.

mod checkpoints;
mod chunks;
mod keep;
mod mend;
mod migrations;
mod publish;
mod rows;
mod salvage;
mod sweep;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use checkpoints::{CheckpointId, NewCheckpoint};
pub use chunks::{Located, Similar};
pub use keep::{Named, SHORTEST};
pub use publish::{NewChunk, NewPack, Publication};
pub use rows::{Blobs, CheckpointRow};
pub(crate) use salvage::Salvaged;
pub(crate) use sweep::{MovedChunk, Numbers, PackRow, StoredChunk};

use crate::Error;
use crate::error::file;

/// The file's name in the store.
pub const FILE: &str = "catalogue.db";

/// How long a writer waits for others. A transaction takes less than a second; a
/// collection's many small ones let others in between.
const PATIENCE: Duration = Duration::from_secs(30);

/// KiB of SQLite's cache, which has two MiB by default.
const CACHE: i64 = 512;

/// An open catalogue.
#[derive(Debug)]
pub struct Catalogue {
    connection: Connection,
    path: PathBuf,
}

impl Catalogue {
    /// Opens or makes the catalogue of a store.
    ///
    /// # Errors
    /// It is damaged or newer, or SQLite's error. It is left as it is then.
    pub fn open(store: &Path) -> Result<Self, Error> {
        let path = store.join(FILE);
        // SQLite would make it, and the files beside it, with the mode of the umask. One that
        // exists must not be opened here: closing it would take away the locks that other
        // connections of this process have on it (fcntl(2)), and then another process would
        // remove the log that they write to.
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(made) => drop(made),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(file("open", &path)(error)),
        }
        let connect = || -> Result<Connection, Failed> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let mut connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            let mode: String =
                connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            // "delete": a file system without shared memory, where others can't be seen.
            if mode != "wal" {
                return Err(Failed::NoSharedMemory);
            }
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "cache_size", -CACHE)?;
            migrations::migrate(&mut connection)?;
            Ok(connection)
        };
        match connect() {
            Ok(connection) => Ok(Self { connection, path }),
            Err(failed) => Err(failed.at(&path)),
        }
    }

    /// Opens a catalogue that is only read: also of a store that can't be written to.
    ///
    /// # Errors
    /// As for [`Self::open`]; there is none.
    pub fn open_read_only(store: &Path) -> Result<Self, Error> {
        let path = store.join(FILE);
        let connect = |uri: &str| -> Result<Connection, Failed> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(uri, flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "cache_size", -CACHE)?;
            migrations::check(&connection)?;
            Ok(connection)
        };
        let uri = uri(&path);
        // On a read-only file system the log's shared memory can't be made; nothing can
        // change the file there either.
        let connection = match connect(&uri) {
            Err(Failed::Sqlite(error)) if is_unwritable(&error) => {
                connect(&format!("{uri}?immutable=1"))
            }
            connection => connection,
        };
        match connection {
            Ok(connection) => Ok(Self { connection, path }),
            Err(failed) => Err(failed.at(&path)),
        }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The connection, for queries of this crate.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn failed(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |error| Failed::Sqlite(error).at(&path)
    }
}

/// A path as SQLite's URI.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(byte.into());
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

fn is_unwritable(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Why the catalogue can't be opened.
enum Failed {
    Newer { found: i64, known: i64 },
    NoSharedMemory,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failed {
    fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::Newer { found, known } => Error::Newer { path, found, known },
            Self::NoSharedMemory => Error::File {
                what: "share",
                path,
                source: std::io::Error::other(
                    "its file system has no shared memory for SQLite; put store.path on a local one",
                ),
            },
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Damaged {
                    path,
                    why: error.to_string(),
                },
                // SQLite says that it can't open the database, not why.
                _ if is_unwritable(&error)
                    && let Some(directory) = path.parent()
                    && let Err(reason) = access(directory, AccessFlags::W_OK) =>
                {
                    file("write to", directory)(reason.into())
                }
                _ => Error::Catalogue {
                    path,
                    source: error,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests;
