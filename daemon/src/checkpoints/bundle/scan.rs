//! Reads the headers of a tar before it is unpacked: known kinds of entries, bounded
//! extensions, and nothing truncated.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header};

const BLOCK: u64 = 512;

/// The most bytes of a header's extension, which is held in memory: a path, and the
/// attributes of one file, which are of 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;

const NOT_A_TAR: &str = "it is not a tar; a compressed one must be decompressed first";

/// Reads all headers. The reason if it is not a tar that is unpacked.
pub(super) fn scan(file: &File, length: u64) -> Result<(), String> {
    let truncated = |at: u64| format!("it is truncated (at byte {at}); copy it again");
    let mut at = 0;
    // The size in the extension before a header.
    let mut extended: Option<u64> = None;
    loop {
        let mut header = Header::new_old();
        if at + BLOCK > length {
            return Err(match at {
                0 => NOT_A_TAR.to_owned(),
                _ => truncated(at),
            });
        }
        let unread = |error: io::Error| format!("it cannot be read: {error}");
        file.read_exact_at(header.as_mut_bytes(), at)
            .map_err(unread)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return match at {
                0 => Err("it is empty".to_owned()),
                _ => Ok(()),
            };
        }
        let not_a_tar = || match at {
            0 => NOT_A_TAR.to_owned(),
            _ => format!("it is damaged (at byte {at})"),
        };
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(not_a_tar());
        }
        let size = header.entry_size().map_err(|_| not_a_tar())?;
        let start = at + BLOCK;
        let size = match header.entry_type() {
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                if size > MAX_EXTENSION {
                    return Err(format!("a header is too long (at byte {at})"));
                }
                if header.entry_type() == EntryType::XHeader {
                    let mut text = vec![0; size as usize];
                    let read = file.read_exact_at(&mut text, start);
                    read.map_err(|_| truncated(at))?;
                    extended = size_in(&text).or(extended);
                }
                size
            }
            EntryType::Regular => extended.take().unwrap_or(size),
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Fifo
            | EntryType::Char
            | EntryType::Block => {
                extended = None;
                if size != 0 {
                    return Err(not_a_tar());
                }
                0
            }
            other => {
                return Err(format!(
                    "it has an entry of an unknown kind ({:?}, at byte {at})",
                    char::from(other.as_byte())
                ));
            }
        };
        let end = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|size| start.checked_add(size));
        at = end
            .filter(|end| *end <= length)
            .ok_or_else(|| truncated(at))?;
    }
}

/// The sum of a header's bytes, its own field taken as blanks.
pub(super) fn checksum(header: &[u8; BLOCK as usize]) -> u32 {
    let sum = |bytes: &[u8]| -> u32 { bytes.iter().map(|byte| u32::from(*byte)).sum() };
    sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..])
}

/// The size in a header's extension, if it has one.
fn size_in(text: &[u8]) -> Option<u64> {
    tar::PaxExtensions::new(text)
        .filter_map(Result::ok)
        .filter(|record| record.key() == Ok("size"))
        .filter_map(|record| record.value().ok()?.parse().ok())
        .last()
}
