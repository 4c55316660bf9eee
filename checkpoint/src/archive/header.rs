//! One header of a tar (POSIX.1-1988 ustar; pax(1), "ustar Interchange Format").
//!
//! ```text
//!   0 name      100 mode   108 uid    116 gid   124 size   136 mtime
//! 148 checksum  156 type   157 link   257 magic "ustar\0" "00"
//! 265 user      297 group  329 major  337 minor 345 prefix  500 unused
//! ```
//!
//! Numbers are octal digits with a NUL or blank at the end. The checksum is the sum of
//! all bytes, its own field taken as blanks.

use super::BLOCK;
use crate::opened::is_plain;

/// A header's bytes.
pub(crate) type Bytes = [u8; BLOCK as usize];

pub(super) const NAME: std::ops::Range<usize> = 0..100;
pub(super) const SIZE: std::ops::Range<usize> = 124..136;
pub(super) const MTIME: std::ops::Range<usize> = 136..148;
pub(super) const CHECKSUM: std::ops::Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
pub(super) const MAGIC: std::ops::Range<usize> = 257..265;
pub(super) const PREFIX: std::ops::Range<usize> = 345..500;

const USTAR: &[u8; 8] = b"ustar\x0000";

/// The largest size in eleven octal digits.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// The header of a flat regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its name.
    pub(crate) name: String,
    /// The length of its content.
    pub(crate) size: u64,
}

impl Header {
    /// The bytes; `None` if the name does not fit. `time` is in seconds since 1970.
    pub(crate) fn render(&self, time: u64) -> Option<Bytes> {
        if !is_plain(&self.name) || self.name.len() > NAME.len() {
            return None;
        }
        let mut bytes = [0; BLOCK as usize];
        bytes[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let mut put = |at: usize, text: &str| {
            bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(100, "0000600");
        put(108, "0000000");
        put(116, "0000000");
        put(MTIME.start, &format!("{:011o}", time.min(MAX_OCTAL)));
        match self.size {
            0..=MAX_OCTAL => put(SIZE.start, &format!("{:011o}", self.size)),
            size => {
                bytes[SIZE.start] = 0x80;
                bytes[SIZE.end - 8..SIZE.end].copy_from_slice(&size.to_be_bytes());
            }
        }
        bytes[TYPE] = b'0';
        bytes[MAGIC].copy_from_slice(USTAR);
        let sum = format!("{:06o}\0 ", checksum(&bytes));
        bytes[CHECKSUM].copy_from_slice(sum.as_bytes());
        Some(bytes)
    }

    /// Parses a header, strictly.
    ///
    /// # Errors
    /// The reason why no checkpoint has it.
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self, &'static str> {
        if &bytes[MAGIC] != USTAR {
            return Err("not a ustar header");
        }
        if octal(&bytes[CHECKSUM]) != Some(u64::from(checksum(bytes))) {
            return Err("its checksum is wrong");
        }
        if bytes[TYPE] != b'0' {
            return Err("not a regular file");
        }
        if bytes[LINK]
            .iter()
            .chain(&bytes[PREFIX])
            .any(|byte| *byte != 0)
        {
            return Err("a link or a directory in its name");
        }
        let name = text(&bytes[NAME]).ok_or("not a name")?;
        if !is_plain(name) {
            return Err("not a flat name");
        }
        let size = size(&bytes[SIZE]).ok_or("not a size")?;
        Ok(Self {
            name: name.to_owned(),
            size,
        })
    }
}

pub(super) fn checksum(bytes: &Bytes) -> u32 {
    let own: u32 = bytes[CHECKSUM].iter().map(|byte| u32::from(*byte)).sum();
    let all: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    all - own + CHECKSUM.len() as u32 * u32::from(b' ')
}

/// A text that NULs end.
fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0);
    let (text, rest) = field.split_at(end.unwrap_or(field.len()));
    match rest.iter().all(|byte| *byte == 0) {
        true => std::str::from_utf8(text).ok(),
        false => None,
    }
}

pub(super) fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, 0 | b' '));
    let (digits, rest) = field.split_at(end?);
    let ends = rest.iter().all(|byte| matches!(byte, 0 | b' '));
    let are_octal = digits.iter().all(|byte| (b'0'..=b'7').contains(byte));
    if digits.is_empty() || !ends || !are_octal {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// A size: octal, or in base 256 if it needs that.
pub(super) fn size(field: &[u8]) -> Option<u64> {
    let [0x80, 0, 0, 0, number @ ..] = field else {
        return octal(field);
    };
    let size = u64::from_be_bytes(number.try_into().ok()?);
    // File offsets are signed.
    (size > MAX_OCTAL && i64::try_from(size).is_ok()).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: &str, size: u64) -> Header {
        let name = name.to_owned();
        Header { name, size }
    }

    #[test]
    fn only_flat_regular_files_are_parsed() {
        let whole = header("core-1.img", 700).render(5).expect("a name");
        assert_eq!(Header::parse(&whole), Ok(header("core-1.img", 700)));
        for (at, byte) in [
            (TYPE, b'2'),
            (TYPE, b'x'),
            (TYPE, 0),
            (LINK.start, b'a'),
            (PREFIX.start, b'a'),
            (SIZE.start, b'8'),
            (SIZE.start, 0xff),
            (5, b'/'),
            (50, b'x'),
            (0, 0),
        ] {
            let mut other = whole;
            other[at] = byte;
            assert!(Header::parse(&other).is_err(), "checksum");
            let sum = format!("{:06o}\0 ", checksum(&other));
            other[CHECKSUM].copy_from_slice(sum.as_bytes());
            assert!(Header::parse(&other).is_err(), "{byte} at {at}");
        }
        assert_eq!(header("a/b", 0).render(0), None);
        assert_eq!(header(&"a".repeat(101), 0).render(0), None);
    }

    proptest! {
        #[test]
        fn rendered_headers_are_parsed(name in "[a-z0-9.-]{1,100}", size in 0..=i64::MAX as u64, time: u64) {
            prop_assume!(name != "." && name != "..");
            let header = header(&name, size);
            prop_assert_eq!(Header::parse(&header.render(time).expect("a name")), Ok(header));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 512)) {
            let _ = Header::parse(&bytes.try_into().expect("a block"));
        }
    }
}
