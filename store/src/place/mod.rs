//! Where packs are kept.
//!
//! A pack is written to a draft on this machine, in the store's directory `incoming`, and
//! put into a place when it is complete. Today's place is a directory beside it ([`Local`]);
//! another one may be across a network, so the interface asks for no more than such a
//! place can do.

mod local;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

pub use local::Local;

/// A place for objects, which never change. Names are plain file names.
pub trait Place: Debug + Send + Sync {
    /// Takes a complete file on this machine's disk, which is at `draft`, and is gone from
    /// there afterwards. It is durable on return.
    ///
    /// # Errors
    /// The system's error. The draft is left.
    fn put(&self, name: &str, draft: &Path) -> io::Result<()>;

    /// Opens an object. It stays readable if it is deleted meanwhile.
    ///
    /// # Errors
    /// `NotFound` if there is none, or the system's error.
    fn open(&self, name: &str) -> io::Result<Box<dyn Object>>;

    /// The names of all objects, and the seconds since each was put there.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self) -> io::Result<Vec<Listed>>;

    /// Deletes an object. One that is not there is deleted already.
    ///
    /// # Errors
    /// The system's error.
    fn delete(&self, name: &str) -> io::Result<()>;
}

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was put there, in seconds since 1970.
    pub since: i64,
}

/// An open object.
pub trait Object: Debug + Send + Sync {
    /// Its bytes.
    ///
    /// # Errors
    /// The system's error.
    fn length(&self) -> io::Result<u64>;

    /// Fills `out` from an offset.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end, or the system's error.
    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;
}

impl Object for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, at)
    }
}
