//! Headers of the tar that containerd makes of a checkpoint.

/// The unit of a tar.
pub(super) const BLOCK: i64 = 512;

/// A file in a tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: i64,
}

/// The bytes of an entry's data with its padding.
pub(super) fn padded(size: i64) -> i64 {
    let padding = (BLOCK - size % BLOCK) % BLOCK;
    size.saturating_add(padding)
}

/// The entry of a header; `None` at the tar's end.
pub(super) fn entry(header: &[u8]) -> Option<Entry> {
    let text = |range: std::ops::Range<usize>| {
        let bytes = header.get(range)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
    };
    let name = text(0..100)?;
    // A size of 8 GiB and more is a number, with the highest bit set.
    let size = match header.get(124..136)? {
        [0x80, rest @ ..] => {
            let bytes = rest.last_chunk::<8>()?;
            i64::from_be_bytes(*bytes)
        }
        _ => i64::from_str_radix(text(124..136)?.trim(), 8).ok()?,
    };
    (!name.is_empty() && size >= 0).then(|| Entry {
        name: name.trim_start_matches("./").to_owned(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..124 + size.len()].copy_from_slice(size);
        header
    }

    #[test]
    fn an_entry_has_an_octal_or_a_binary_size() {
        let of = |name: &str, size| {
            Some(Entry {
                name: name.to_owned(),
                size,
            })
        };
        assert_eq!(entry(&header("a", b"00000000017\0")), of("a", 15));
        let large = [0x80, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        assert_eq!(entry(&header("./b", &large)), of("b", 16 << 30));
        assert_eq!(entry(&[0; 512]), None);
        assert_eq!(entry(b"short"), None);
        assert_eq!(entry(&header("c", b"9")), None);
    }

    #[test]
    fn a_negative_size_ends_the_list() {
        let mut size = [0xff; 12];
        size[0] = 0x80;
        assert_eq!(entry(&header("a", &size)), None);
    }
}
