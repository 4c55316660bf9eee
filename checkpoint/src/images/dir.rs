//! A checkpoint's directory, read image by image.

use std::io;
use std::path::Path;

use super::error::{Error, name};
use super::frame::{Fault, Records};
use super::proto::wire::Message;
use super::source::Images;

/// Limit of the records of one file that are held in memory. A process can't have more
/// descriptors than fs.nr_open, whose default this is.
pub(super) const MAX_RECORDS: usize = 1 << 20;

/// A directory of images. An optional image that is missing counts as empty.
#[derive(Debug)]
pub(crate) struct Dir<'a, I: Images + ?Sized = Path>(pub(crate) &'a I);

impl<I: Images + ?Sized> Clone for Dir<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Images + ?Sized> Copy for Dir<'_, I> {}

impl<I: Images + ?Sized> Dir<'_, I> {
    /// Reads an image; `None` if it is missing.
    pub(crate) fn open<T>(
        &self,
        image: &str,
        read: impl FnOnce(&mut Records) -> Result<T, Fault>,
    ) -> Result<Option<T>, Error> {
        let path = self.0.path().join(image);
        match Records::open(self.0, image).and_then(|mut records| read(&mut records)) {
            Ok(found) => Ok(Some(found)),
            Err(Fault::Read(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(name(fault, path)),
        }
    }

    /// The first record of an image.
    pub(crate) fn first<M: Message>(&self, image: &str) -> Result<Option<M>, Error> {
        self.open(image, Records::next_message).map(Option::flatten)
    }

    /// All records of an image.
    pub(crate) fn all<M: Message>(&self, image: &str) -> Result<Vec<M>, Error> {
        let mut messages = Vec::new();
        self.each(image, |message| {
            if messages.len() == MAX_RECORDS {
                return Err(Fault::TooMany);
            }
            messages.push(message);
            Ok(())
        })?;
        Ok(messages)
    }

    /// Calls `take` for each record of an image.
    pub(crate) fn each<M: Message>(
        &self,
        image: &str,
        mut take: impl FnMut(M) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        self.open(image, |records| {
            while let Some(message) = records.next_message()? {
                take(message)?;
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// The names of regular files.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        self.0.names().map_err(|source| self.unreadable(source))
    }

    /// The names of regular files, and their sizes.
    pub(crate) fn files(&self) -> Result<Vec<(String, u64)>, Error> {
        self.0.files().map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Directory {
            dir: self.0.path().to_owned(),
            source,
        }
    }
}

/// The number in an image's name, such as 7 in `core-7.img`.
pub(crate) fn number<N: std::str::FromStr>(name: &str, prefix: &str) -> Option<N> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".img")?;
    // CRIU writes and opens plain decimal numbers: `+7` and `07` name other files.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| is_plain)
}
