//! Parses the formats of cgroup files: a number, `key value` lines, device lines.

use std::{collections::HashMap, fs, path::Path};

/// Reads one number; `max` is the largest. None if the file is missing.
pub(super) fn number(dir: &Path, file: &str) -> Option<u64> {
    parse_number(fs::read_to_string(dir.join(file)).ok()?.trim())
}

fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Reads a flat keyed file; empty if the file is missing.
pub(super) fn keyed(dir: &Path, file: &str) -> Keyed {
    Keyed(parse_keyed(
        &fs::read_to_string(dir.join(file)).unwrap_or_default(),
    ))
}

fn parse_keyed(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), parse_number(value.trim())?))
        })
        .collect()
}

/// The contents of a flat keyed file.
#[derive(Default)]
pub(super) struct Keyed(HashMap<String, u64>);

impl Keyed {
    /// The value of a key; zero if the file lacks the key.
    pub(super) fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Whether the file exists and is not empty.
    pub(super) fn exists(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The lines of a per-device file, `MAJOR:MINOR rest`.
pub(super) fn device_lines(text: &str) -> impl Iterator<Item = (u64, u64, &str)> {
    text.lines().filter_map(|line| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?, rest))
    })
}

/// The value of a key among `key=value` words, as in io.stat and rdma.current.
pub(super) fn word(words: &str, key: &str) -> u64 {
    words
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| parse_number(value))
        .unwrap_or_default()
}

/// The lines of an RDMA file, `DEVICE hca_handle=N hca_object=N`; `max` is the
/// largest number of the metrics' type.
pub(super) fn rdma(dir: &Path, file: &str) -> Vec<(String, u32, u32)> {
    let count = |words: &str, key: &str| u32::try_from(word(words, key)).unwrap_or(u32::MAX);
    fs::read_to_string(dir.join(file))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(device, words)| {
            let (handles, objects) = (count(words, "hca_handle"), count(words, "hca_object"));
            (device.to_owned(), handles, objects)
        })
        .collect()
}

/// The huge page sizes of this machine, as the hugetlb controller names them in
/// its files ("2MB", "1GB"), from the file names themselves.
pub(super) fn hugepage_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let mut sizes: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_parsed() {
        let keyed = Keyed(parse_keyed("anon 12\nfile max\nbroken\nx y\n"));
        assert_eq!(keyed.get("anon"), 12);
        assert_eq!(keyed.get("file"), u64::MAX);
        assert_eq!(keyed.get("x"), 0);
        let lines: Vec<_> = device_lines("8:0 rbytes=1 wbytes=2\nTotal 3\n").collect();
        assert_eq!(lines, [(8, 0, "rbytes=1 wbytes=2")]);
        assert_eq!(word(lines[0].2, "wbytes"), 2);
        assert_eq!(word(lines[0].2, "rios"), 0);
    }

    #[test]
    fn sizes_come_from_file_names() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "hugetlb.2MB.current",
            "hugetlb.1GB.current",
            "hugetlb.2MB.rsvd.current",
            "cpu.stat",
        ] {
            fs::write(dir.path().join(file), "0").unwrap();
        }
        assert_eq!(hugepage_sizes(dir.path(), ".current"), ["1GB", "2MB"]);
    }

    proptest::proptest! {
        #[test]
        fn no_contents_panic(text: String) {
            let _ = parse_keyed(&text);
            for (_, _, words) in device_lines(&text) {
                let _ = word(words, "rbytes");
            }
        }
    }
}
