//! Marks reserved address space, so that a restore needs no memory for it.
//!
//! Programs reserve address space that they may never use: MariaDB 8 TiB, V8 and
//! Chromium some TiB, mapped without any access. The kernel counts no memory for
//! such a mapping. CRIU maps what a lazy restore registers, and what a child has
//! from its parent, with write access first (mem.c, `premap_private_vma`), and
//! the kernel counts all of that: above the machine's memory it refuses, "Cannot
//! allocate memory" (`__vm_enough_memory`, overcommit mode 0).
//!
//! So this module adds `MAP_NORESERVE` to such mappings in the images that CRIU reads.
//! The kernel counts nothing for them in modes 0 and 1. A restored mapping keeps the
//! flag, so the kernel does not count it either when the program later gets write
//! access. Most programs that reserve address space set the flag themselves.

use super::contents::{Directory, Node};
use crate::images::proto::Vma;
use crate::images::proto::wire::{Fields, Malformed, Message, Value, put_bytes, put_varint};

/// `Mm.vmas` and `Vma.flags`, by their numbers in CRIU's images.
const VMAS: u64 = 14;
const FLAGS: u64 = 6;

/// Two magic numbers and the length of the one record.
const HEAD: usize = 12;

/// Marks each inaccessible or read-only private mapping of more than `free` bytes with
/// `MAP_NORESERVE`. Smaller ones need no mark, because the kernel never refuses a
/// mapping that fits into its free memory. An image that is not understood is
/// unchanged.
pub fn reserve(directory: &mut Directory, free: u64) {
    for (name, node) in directory.iter_mut() {
        if !(name.starts_with("mm-") && name.ends_with(".img")) {
            continue;
        }
        if let Node::File { bytes, .. } = node
            && let Some(edited) = image(bytes, free)
        {
            *bytes = edited.into();
        }
    }
}

/// The image with such mappings marked; `None` if it has none.
fn image(image: &[u8], free: u64) -> Option<Vec<u8>> {
    let (head, record) = image.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(head[8..].try_into().ok()?);
    if record.len() != length as usize {
        return None;
    }
    let marked = mark(record, free).ok()??;
    let length = u32::try_from(marked.len()).ok()?;
    let mut image = head[..8].to_vec();
    image.extend(length.to_le_bytes());
    image.extend(marked);
    Some(image)
}

/// Marks the mappings of an address space. Every other byte is unchanged.
fn mark(mm: &[u8], free: u64) -> Result<Option<Vec<u8>>, Malformed> {
    let mut out = Vec::with_capacity(mm.len() + 64);
    let mut found = false;
    let mut fields = Fields(mm);
    loop {
        let before = fields.0;
        let Some(field) = fields.next() else { break };
        match field? {
            (VMAS, Value::Bytes(vma)) if is_reservation(&Vma::decode(vma)?, free) => {
                put_bytes(&mut out, VMAS, &with_noreserve(vma)?);
                found = true;
            }
            _ => out.extend(&before[..before.len() - fields.0.len()]),
        }
    }
    Ok(found.then_some(out))
}

fn is_reservation(vma: &Vma, free: u64) -> bool {
    vma.is_private_anonymous()
        && !vma.is_guard()
        && !vma.is_writable()
        && vma.flags & (Vma::NORESERVE | Vma::HUGETLB) == 0
        && vma.end.saturating_sub(vma.start) > free
}

fn with_noreserve(vma: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(vma.len() + 2);
    let mut fields = Fields(vma);
    loop {
        let before = fields.0;
        let Some(field) = fields.next() else { break };
        match field? {
            (FLAGS, Value::Number(flags)) => {
                put_varint(&mut out, FLAGS << 3);
                put_varint(&mut out, flags | u64::from(Vma::NORESERVE));
            }
            _ => out.extend(&before[..before.len() - fields.0.len()]),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::proto::Mm;
    use proptest::prelude::*;

    const PRIVATE: u64 = 0x22;
    const FREE: u64 = 1 << 30;

    fn vma(start: u64, end: u64, prot: u64, flags: u64, status: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let fields = [
            (1, start),
            (2, end),
            (4, 0),
            (5, prot),
            (6, flags),
            (7, status),
        ];
        for (number, value) in fields {
            put_varint(&mut out, number << 3);
            put_varint(&mut out, value);
        }
        // A field that this version does not know.
        put_bytes(&mut out, 31, b"unknown");
        out
    }

    fn mm(vmas: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in [(5, 7), (12, 3)] {
            put_varint(&mut out, number << 3);
            put_varint(&mut out, value);
        }
        for vma in vmas {
            put_bytes(&mut out, VMAS, vma);
        }
        put_bytes(&mut out, 30, b"unknown");
        out
    }

    #[test]
    fn only_large_mappings_without_write_access_are_marked() {
        let large = 8 << 40;
        let vmas = [
            vma(0, large, 0, PRIVATE, 0x201),         // a reservation
            vma(large, 2 * large, 1, PRIVATE, 0x201), // readable
            vma(0, large, 3, PRIVATE, 0x201),         // writable
            vma(0, FREE, 0, PRIVATE, 0x201),          // always fits
            vma(0, large, 0, 0x02, 0x41),             // of a file
            vma(0, large, 0, 0x21, 0x101),            // shared
            vma(0, large, 0, PRIVATE, 1 << 16),       // a guard region
            vma(0, large, 0, PRIVATE | 0x4000, 0x201),
        ];
        let before = mm(&vmas);
        let after = mark(&before, FREE).expect("sound").expect("marked");
        let flags: Vec<u32> = Mm::decode(&after)
            .expect("sound")
            .vmas
            .iter()
            .map(|vma| vma.flags)
            .collect();
        assert_eq!(
            flags,
            [0x4022, 0x4022, 0x22, 0x22, 0x02, 0x21, 0x22, 0x4022]
        );
        // Two flags are two bytes longer. Nothing else has another length.
        assert_eq!(after.len(), before.len() + 2 * 2);
        assert!(after.ends_with(b"unknown"));
        assert_eq!(mark(&mm(&vmas[2..]), FREE), Ok(None));
    }

    #[test]
    fn an_image_is_marked_with_its_length() {
        let dir = tempfile::tempdir().expect("tempdir");
        let record = mm(&[vma(0, 8 << 40, 0, PRIVATE, 0x201)]);
        let mut image = vec![7; 8];
        image.extend((record.len() as u32).to_le_bytes());
        image.extend(&record);
        let node = |bytes: &[u8]| Node::File {
            path: dir.path().to_owned(),
            metadata: dir.path().metadata().expect("status"),
            bytes: bytes.into(),
        };
        let mut directory = Directory::from([
            ("core-1.img".to_owned(), node(&image)),
            ("mm-1.img".to_owned(), node(&image)),
        ]);
        let bytes = |directory: &Directory, name: &str| match &directory[name] {
            Node::File { bytes, .. } => bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        reserve(&mut directory, u64::MAX);
        assert_eq!(bytes(&directory, "mm-1.img"), image);
        reserve(&mut directory, FREE);
        let edited = bytes(&directory, "mm-1.img");
        assert!(edited.len() > image.len(), "not marked");
        assert_eq!(edited[..8], image[..8]);
        assert_eq!(edited[8..12], ((edited.len() - 12) as u32).to_le_bytes());
        assert_eq!(bytes(&directory, "core-1.img"), image);
        // CRIU refuses a truncated image itself.
        assert_eq!(super::image(&image[..40], FREE), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = mark(&bytes, 0);
        }

        #[test]
        fn marked_images_decode_to_the_same_mappings(
            vmas in prop::collection::vec((any::<u64>(), any::<u64>(), 0..8u64, any::<u32>(), any::<u32>()), 0..6),
            free: u64,
        ) {
            let vmas: Vec<_> = vmas
                .iter()
                .map(|&(start, end, prot, flags, status)| vma(start, end, prot, flags.into(), status.into()))
                .collect();
            let before = mm(&vmas);
            if let Some(after) = mark(&before, free).expect("sound") {
                let before = Mm::decode(&before).expect("sound").vmas;
                let after = Mm::decode(&after).expect("sound").vmas;
                prop_assert_eq!(before.len(), after.len());
                for (before, after) in before.iter().zip(&after) {
                    prop_assert_eq!((before.start, before.end), (after.start, after.end));
                    prop_assert_eq!(before.flags | Vma::NORESERVE, after.flags | Vma::NORESERVE);
                }
            }
        }
    }
}
