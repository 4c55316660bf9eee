//! Extended headers of a tar: POSIX.1-2001 pax records (pax(1), "pax Extended Header").
//!
//! ```text
//! 27 path=checkpoint/a.img\n   the length is that of the whole record, in decimal
//! ```
//!
//! Go's archive/tar, which Podman, CRI-O and containerd use, writes them for what ustar has
//! no room for: long names, sizes from 8 GiB, extended attributes.

/// What the records say of the next entry. Times and attributes are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<String>,
    pub(super) size: Option<u64>,
}

impl Records {
    /// Parses the records.
    ///
    /// # Errors
    /// The reason why they are refused.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        const MALFORMED: &str = "a malformed pax header";
        let mut records = Self::default();
        while !bytes.is_empty() {
            let digits = bytes.iter().position(|byte| *byte == b' ');
            let length = digits
                .and_then(|end| std::str::from_utf8(&bytes[..end]).ok())
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<usize>().ok());
            let (Some(digits), Some(length)) = (digits, length) else {
                return Err(MALFORMED);
            };
            let record = bytes.get(digits + 1..length).ok_or(MALFORMED)?;
            bytes = &bytes[length..];
            let record = record.strip_suffix(b"\n").ok_or(MALFORMED)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let (key, value) = record.split_at(equals.ok_or(MALFORMED)?);
            let value = std::str::from_utf8(&value[1..]);
            match key {
                b"path" => records.path = Some(value.map_err(|_| MALFORMED)?.to_owned()),
                b"size" => {
                    let size = value.ok().and_then(|value| value.parse().ok());
                    // File offsets are signed.
                    let size = size.filter(|size| i64::try_from(*size).is_ok());
                    records.size = Some(size.ok_or(MALFORMED)?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err("a sparse file"),
                _ => {}
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_and_sizes_are_found_among_other_records() {
        let text = b"30 mtime=1767323045.123456789\n12 path=a/b\n22 size=8589934592000\n";
        let records = Records::parse(text).expect("records");
        assert_eq!(records.path.as_deref(), Some("a/b"));
        assert_eq!(records.size, Some(8_589_934_592_000));
        assert_eq!(Records::parse(b""), Ok(Records::default()));
    }

    #[test]
    fn malformed_and_sparse_records_are_refused() {
        for text in [
            &b"12 path=a/b"[..],
            b"99 path=a/b\n",
            b"+2 path=a/b\n",
            b"3 \n",
            b"0 path\n",
            b"10 pathab\n",
            b"10 size=-1\n",
            b"28 size=9223372036854775808\n",
            b"22 GNU.sparse.major=1\n",
            b"11 path=\xff\xfe\n",
        ] {
            let parsed = Records::parse(text);
            assert!(parsed.is_err(), "{}: {parsed:?}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Records::parse(&bytes);
        }

        #[test]
        fn any_length_of_record_is_parsed(path in "[a-z0-9/]{1,300}") {
            let rest = format!(" path={path}\n");
            // The length counts its own digits.
            let length = (1..4).map(|digits| rest.len() + digits)
                .find(|length| length.to_string().len() + rest.len() == *length);
            let text = format!("{}{rest}", length.expect("a length"));
            let records = Records::parse(text.as_bytes()).expect("records");
            prop_assert_eq!(records.path, Some(path));
        }
    }
}
