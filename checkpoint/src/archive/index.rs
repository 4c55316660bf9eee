//! The entries of an archive, by name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BLOCK, Error, Header, padding};

/// The most entries that an archive may have: what is read of each is held in memory.
const MAX_ENTRIES: usize = 1 << 20;

/// The most zeros after the end. tar(1) fills its last record, of 10 KiB.
const MAX_PADDING: u64 = 10 << 10;

/// Where each file's content is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    files: BTreeMap<String, (u64, u64)>,
}

impl Index {
    /// Reads all headers of an archive.
    ///
    /// # Errors
    /// It can't be read, is truncated, or has anything but flat regular files.
    pub fn read(file: &File) -> Result<Self, Error> {
        let length = file.metadata()?.len();
        Self::of(length, |bytes, at| file.read_exact_at(bytes, at))
    }

    /// Reads all headers of an archive in memory.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn parse(archive: &[u8]) -> Result<Self, Error> {
        Self::of(archive.len() as u64, |bytes, at| {
            // `of` stays below the length.
            let at = at as usize;
            bytes.copy_from_slice(&archive[at..at + bytes.len()]);
            Ok(())
        })
    }

    fn of(
        length: u64,
        read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
    ) -> Result<Self, Error> {
        let mut index = Self::default();
        let mut at = 0;
        loop {
            let mut bytes = [0; BLOCK as usize];
            let start = at + BLOCK;
            if start > length {
                return Err(Error::Truncated { at });
            }
            read(&mut bytes, at)?;
            if bytes.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = Header::parse(&bytes).map_err(|what| Error::Entry { at, what })?;
            let end = start
                .checked_add(header.size)
                .and_then(|end| end.checked_add(padding(header.size)))
                .filter(|end| *end <= length)
                .ok_or(Error::Truncated { at })?;
            if index.files.len() == MAX_ENTRIES {
                return Err(Error::TooMany);
            }
            match index.files.entry(header.name) {
                Entry::Vacant(entry) => entry.insert((start, header.size)),
                Entry::Occupied(entry) => {
                    let name = entry.key().clone();
                    return Err(Error::Twice { name });
                }
            };
            at = end;
        }
        // Two zero blocks end a tar, and only zeros may follow.
        let rest = length - at;
        if rest < 2 * BLOCK {
            return Err(Error::Truncated { at });
        }
        if rest > MAX_PADDING + 2 * BLOCK {
            return Err(Error::Trailing { at });
        }
        let mut bytes = vec![0; rest as usize];
        read(&mut bytes, at)?;
        match bytes.iter().position(|byte| *byte != 0) {
            Some(data) => Err(Error::Trailing {
                at: at + data as u64,
            }),
            None => Ok(index),
        }
    }

    /// The offset and the length of a file's content.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(u64, u64)> {
        self.files.get(name).copied()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An archive of these files.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, content) in files {
            let header = Header {
                name: (*name).to_owned(),
                size: content.len() as u64,
            };
            out.extend(header.render(0).expect("a name"));
            out.extend(*content);
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        out.resize(out.len() + 2 * BLOCK as usize, 0);
        out
    }

    #[test]
    fn files_are_found_where_they_are() {
        let bytes = archive(&[("a", b""), ("b", b"content"), ("c", &[7; 513])]);
        let index = Index::parse(&bytes).expect("an archive");
        assert_eq!(index.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(index.get("a"), Some((512, 0)));
        let (start, length) = index.get("b").expect("b");
        assert_eq!(&bytes[start as usize..][..length as usize], b"content");
        assert_eq!(index.get("c"), Some((2048, 513)));
        assert_eq!(index.get("d"), None);
        let mut padded = bytes;
        padded.resize(10 << 10, 0);
        Index::parse(&padded).expect("as tar pads");
    }

    #[test]
    fn truncated_doubled_and_trailing_data_are_refused() {
        let whole = archive(&[("a", b"content")]);
        for end in 0..whole.len() {
            let error = Index::parse(&whole[..end]).expect_err("truncated");
            assert!(matches!(error, Error::Truncated { .. }), "{end}: {error}");
        }
        let twice = Index::parse(&archive(&[("a", b""), ("a", b"")]));
        assert!(matches!(twice, Err(Error::Twice { .. })));
        let mut more = whole.clone();
        more.push(1);
        assert!(matches!(
            Index::parse(&more),
            Err(Error::Trailing { at }) if at == whole.len() as u64
        ));
        let mut joined = whole.clone();
        joined.extend(&whole);
        assert!(matches!(Index::parse(&joined), Err(Error::Trailing { .. })));
        more.resize(1 << 20, 0);
        assert!(matches!(Index::parse(&more), Err(Error::Trailing { .. })));
    }

    #[test]
    fn a_size_beyond_the_archive_is_refused() {
        for size in [1 << 13, 1 << 40, i64::MAX as u64] {
            let name = "a".to_owned();
            let mut bytes = Header { name, size }.render(0).expect("a name").to_vec();
            bytes.resize(4096, 0);
            assert!(matches!(Index::parse(&bytes), Err(Error::Truncated { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(blocks in 0usize..6, at in 0usize..3000, value: u8) {
            let mut bytes = archive(&[("a", b"content"), ("b", &[1; 600])]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(bytes.len() - blocks * 100);
            if let Ok(index) = Index::parse(&bytes) {
                for name in index.names() {
                    let (start, length) = index.get(name).expect("listed");
                    prop_assert!(start + length <= bytes.len() as u64);
                }
            }
        }
    }
}
