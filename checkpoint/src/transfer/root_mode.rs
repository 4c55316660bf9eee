//! Leaves the mode of the root directory out of `files.img`.
//!
//! CRIU compares the mode of each file and directory that it opens with that of the dump
//! (criu/files-reg.c, `validate_file`), and a process's root is one of them. The root of a
//! container's file system has mode 0755 in containerd and Docker, and 0555 in Podman,
//! whatever the image says. Podman can't be given another one: it skips the root when it
//! applies `rootfs-diff.tar`. CRIU compares a mode only if the image has one.

use crate::images::proto::wire::{Fields, Malformed, Value, put_bytes};

/// `FileEntry.reg`, `RegFile.name` and `RegFile.mode` by their numbers in CRIU's images.
const REG: u64 = 3;
const NAME: u64 = 6;
const MODE: u64 = 10;

/// Two magic numbers.
const HEAD: usize = 8;

/// The image without that mode; `None` if it has none, or is not understood: CRIU refuses a
/// damaged image itself.
pub(super) fn without_root_mode(image: &[u8]) -> Option<Vec<u8>> {
    let (head, mut records) = image.split_at_checked(HEAD)?;
    let mut out = head.to_vec();
    let mut found = false;
    while !records.is_empty() {
        let (length, rest) = records.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let (record, rest) = rest.split_at_checked(length as usize)?;
        records = rest;
        let edited = edit(record, REG, |reg| match is_root(reg)? {
            true => edit(reg, MODE, |_| Ok(Edit::Remove)).map(Edit::Replace),
            false => Ok(Edit::Keep),
        });
        let edited = edited.ok()?;
        found |= edited.len() != record.len();
        out.extend(u32::try_from(edited.len()).ok()?.to_le_bytes());
        out.extend(edited);
    }
    found.then_some(out)
}

/// What becomes of a field.
enum Edit {
    Keep,
    Remove,
    Replace(Vec<u8>),
}

/// A message with an edited field. `change` gets its bytes, none of a number.
fn edit(
    message: &[u8],
    field: u64,
    change: impl Fn(&[u8]) -> Result<Edit, Malformed>,
) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(message.len());
    let mut fields = Fields(message);
    loop {
        let before = fields.0;
        let Some(found) = fields.next() else { break };
        let change = match found? {
            (number, Value::Bytes(bytes)) if number == field => change(bytes)?,
            (number, Value::Number(_)) if number == field => change(&[])?,
            _ => Edit::Keep,
        };
        match change {
            Edit::Keep => out.extend(&before[..before.len() - fields.0.len()]),
            Edit::Remove => {}
            Edit::Replace(bytes) => put_bytes(&mut out, field, &bytes),
        }
    }
    Ok(out)
}

/// Whether this is the root of the container's file system, which CRIU names `.` or `/`.
fn is_root(reg: &[u8]) -> Result<bool, Malformed> {
    for field in Fields(reg) {
        if let (NAME, Value::Bytes(name)) = field? {
            return Ok(matches!(name, b"." | b"/"));
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::proto::wire::put_varint;
    use proptest::prelude::*;

    fn reg(name: &str, mode: Option<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, 2 << 3);
        put_varint(&mut out, 7);
        put_bytes(&mut out, NAME, name.as_bytes());
        if let Some(mode) = mode {
            put_varint(&mut out, MODE << 3);
            put_varint(&mut out, mode);
        }
        put_bytes(&mut out, 30, b"unknown");
        out
    }

    fn image(files: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![7; HEAD];
        for file in files {
            let mut entry = Vec::new();
            put_varint(&mut entry, 1 << 3);
            put_varint(&mut entry, 1);
            put_bytes(&mut entry, REG, file);
            out.extend((entry.len() as u32).to_le_bytes());
            out.extend(entry);
        }
        out
    }

    #[test]
    fn only_the_mode_of_the_root_is_left_out() {
        let mode = Some(0o040_755);
        let before = image(&[reg("./bin/sh", mode), reg(".", mode), reg("/", mode)]);
        let after = image(&[reg("./bin/sh", mode), reg(".", None), reg("/", None)]);
        assert_eq!(without_root_mode(&before), Some(after.clone()));
        assert_eq!(without_root_mode(&after), None);
        assert_eq!(without_root_mode(&before[..before.len() - 1]), None);
        assert_eq!(without_root_mode(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = without_root_mode(&bytes);
        }
    }
}
