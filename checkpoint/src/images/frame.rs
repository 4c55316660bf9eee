//! The framing that CRIU's image files share: magic numbers, then records.

use std::io::{self, BufReader, Read};

use super::proto::wire::{Malformed, Message};
use super::source::Images;
use crate::opened::Refused;

/// First word of every framed image but the inventory (CRIU's magic.h).
const COMMON: u32 = 0x5456_4319;

/// First word of CRIU's files that are not images: its statistics.
const SERVICE: u32 = 0x5510_5940;

/// First word of the inventory.
pub(crate) const INVENTORY: u32 = 0x5831_3116;

/// Size limit of a record in bytes. Records of the images that are read here are
/// smaller, so a greater length is damage, and is not allocated.
const MAX_RECORD: u32 = 16 << 20;

/// The fault of a file.
#[derive(Debug)]
pub(crate) enum Fault {
    Read(io::Error),
    NotAnImage,
    Truncated,
    /// A record is not the expected message.
    Malformed,
    /// More records than a checkpoint can have.
    TooMany,
}

impl From<io::Error> for Fault {
    /// A link or a pipe of an image's name is no image.
    fn from(error: io::Error) -> Self {
        let refused = error.get_ref().and_then(|inner| inner.downcast_ref());
        match refused {
            Some(Refused::Link | Refused::NotRegular) => Self::NotAnImage,
            _ => Self::Read(error),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The records of one file, in order.
pub(crate) struct Records {
    file: BufReader<Box<dyn Read>>,
    /// The record that was read last. Its buffer is reused, because a pagemap has a
    /// record of a few bytes for each run of pages.
    record: Vec<u8>,
}

impl Records {
    /// Opens a file and checks its magic.
    pub(crate) fn open<I: Images + ?Sized>(images: &I, name: &str) -> Result<Self, Fault> {
        let mut records = Self {
            file: BufReader::new(images.image(name)?),
            record: Vec::new(),
        };
        match records.word()? {
            Some(INVENTORY) => Ok(records),
            Some(COMMON | SERVICE) => match records.word()? {
                Some(_) => Ok(records),
                None => Err(Fault::Truncated),
            },
            Some(_) => Err(Fault::NotAnImage),
            None => Err(Fault::Truncated),
        }
    }

    /// The next record; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        let Some(length) = self.word()? else {
            return Ok(None);
        };
        if length > MAX_RECORD {
            return Err(Fault::Truncated);
        }
        self.record.clear();
        // The buffer grows with the bytes that are read, so a wrong length costs no memory.
        (&mut self.file)
            .take(u64::from(length))
            .read_to_end(&mut self.record)
            .map_err(Fault::Read)?;
        if self.record.len() as u64 == u64::from(length) {
            Ok(Some(&self.record))
        } else {
            Err(Fault::Truncated)
        }
    }

    /// The next record, decoded.
    pub(crate) fn next_message<M: Message>(&mut self) -> Result<Option<M>, Fault> {
        match self.next()? {
            Some(record) => Ok(Some(M::decode(record)?)),
            None => Ok(None),
        }
    }

    /// A little-endian word; `None` at the end. A part of a word is damage.
    fn word(&mut self) -> Result<Option<u32>, Fault> {
        let mut word = [0; 4];
        let mut read = 0;
        while read < word.len() {
            match self.file.read(&mut word[read..]) {
                Ok(0) if read == 0 => return Ok(None),
                Ok(0) => return Err(Fault::Truncated),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        }
        Ok(Some(u32::from_le_bytes(word)))
    }
}
