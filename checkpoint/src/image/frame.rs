//! The framing that CRIU's image files share: magic numbers, then records.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// First word of every framed image but the inventory (CRIU's magic.h).
const COMMON: u32 = 0x5456_4319;

/// First word of the inventory.
pub(super) const INVENTORY: u32 = 0x5831_3116;

/// No record of the files that we look into is as large as this; a length
/// beyond it is damage and must not be allocated.
const MAX_RECORD: u32 = 16 << 20;

/// The number fields of a protobuf message's top level, in order: field number
/// and value, or length for a field of bytes. Ends at the first thing that is no
/// field.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    std::iter::from_fn(move || {
        let key = varint(&mut message)?;
        let (value, skip) = match key & 7 {
            0 => (varint(&mut message)?, 0),
            1 => (0, 8),
            2 => {
                let length = varint(&mut message)?;
                (length, usize::try_from(length).ok()?)
            }
            5 => (0, 4),
            _ => return None,
        };
        message = message.get(skip..)?;
        Some((key >> 3, value))
    })
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    NotAnImage,
    Truncated,
}

/// The records of one file, in order.
pub(super) struct Records {
    file: BufReader<File>,
}

impl Records {
    /// Opens a file and checks its magic.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let mut records = Self {
            file: BufReader::new(File::open(path).map_err(Fault::Read)?),
        };
        match records.word()? {
            Some(INVENTORY) => Ok(records),
            Some(COMMON) => match records.word()? {
                Some(_) => Ok(records),
                None => Err(Fault::Truncated),
            },
            Some(_) => Err(Fault::NotAnImage),
            None => Err(Fault::Truncated),
        }
    }

    /// The next record, or nothing at the file's proper end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(length) = self.word()? else {
            return Ok(None);
        };
        if length > MAX_RECORD {
            return Err(Fault::Truncated);
        }
        // Grown by what is really there, so a wrong length costs no memory.
        let mut record = Vec::new();
        (&mut self.file)
            .take(u64::from(length))
            .read_to_end(&mut record)
            .map_err(Fault::Read)?;
        if record.len() as u64 == u64::from(length) {
            Ok(Some(record))
        } else {
            Err(Fault::Truncated)
        }
    }

    /// A little-endian word, or nothing at the end. Part of a word is damage.
    fn word(&mut self) -> Result<Option<u32>, Fault> {
        let mut bytes = Vec::with_capacity(4);
        (&mut self.file)
            .take(4)
            .read_to_end(&mut bytes)
            .map_err(Fault::Read)?;
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(word) => Ok(Some(u32::from_le_bytes(word))),
            Err(_) if bytes.is_empty() => Ok(None),
            Err(_) => Err(Fault::Truncated),
        }
    }
}
