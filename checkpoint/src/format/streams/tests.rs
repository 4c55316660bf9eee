use std::io;

use proptest::prelude::*;

use super::*;

pub(crate) fn archive(images: &[(&str, &[u8])]) -> (Vec<u8>, blake3::Hash) {
    let mut writer = Writer::new(Vec::new());
    for (name, image) in images {
        let size = image.len() as u64;
        writer.append(name, size, *image).expect("append");
    }
    let (bytes, size, digest) = writer.finish().expect("finish");
    assert_eq!(size, bytes.len() as u64);
    (bytes, digest)
}

fn listed(bytes: &[u8]) -> Result<Vec<Packed>, Fault> {
    list(bytes.len() as u64, |at, out| {
        let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
        let from = from.and_then(|from| from.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    })
}

fn at<'a>(bytes: &'a [u8], packed: &Packed) -> &'a [u8] {
    &bytes[packed.offset as usize..(packed.offset + packed.size) as usize]
}

#[test]
fn names_are_those_of_criu() {
    for name in [
        "tcp-stream-0.img",
        "tcp-stream-2db27e.img",
        "tcp-stream-ffffffff.img",
    ] {
        assert!(is_stream(name), "{name}");
    }
    for name in [
        "tcp-stream-.img",
        "tcp-stream-01.img",
        "tcp-stream-+1.img",
        "tcp-stream-A.img",
        "tcp-stream-g.img",
        "tcp-stream-100000000.img",
        "tcp-stream-1.img.zst",
        "../tcp-stream-1.img",
        "tcp-stream-1/2.img",
        "core-1.img",
    ] {
        assert!(!is_stream(name), "{name}");
    }
}

/// Images of no byte, of less than a block, of a block, and of more.
pub(crate) const IMAGES: [(&str, &[u8]); 4] = [
    ("tcp-stream-1.img", b""),
    ("tcp-stream-10.img", b"ten"),
    ("tcp-stream-2.img", &[7; 512]),
    ("tcp-stream-ab.img", &[9; 513]),
];

#[test]
fn images_are_found_again() {
    let (bytes, digest) = archive(&IMAGES);
    assert_eq!(digest, blake3::hash(&bytes));
    let found = listed(&bytes).expect("list");
    assert_eq!(found.len(), IMAGES.len());
    for (found, (name, image)) in found.iter().zip(IMAGES) {
        assert_eq!((found.name.as_str(), at(&bytes, found)), (name, image));
    }
    let (empty, _) = archive(&[]);
    assert_eq!(listed(&empty).expect("list"), []);
}

#[test]
fn other_programs_read_it() {
    let (bytes, _) = archive(&IMAGES);
    let mut archive = tar::Archive::new(&*bytes);
    let mut names = Vec::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("entry");
        assert_eq!(entry.header().entry_type(), EntryType::Regular);
        assert_eq!(entry.header().mode().expect("mode"), 0o600);
        let mut image = Vec::new();
        io::copy(&mut entry, &mut image).expect("read");
        let name = entry.path().expect("path").display().to_string();
        names.push((name, image));
    }
    let expected = IMAGES.map(|(name, image)| (name.to_owned(), image.to_vec()));
    assert_eq!(names, expected);
}

#[test]
fn only_connections_in_order_are_appended() {
    let mut writer = Writer::new(Vec::new());
    let mut append = |name: &str, size, image: &[u8]| writer.append(name, size, image);
    append("tcp-stream-5.img", 1, b"x").expect("append");
    append("tcp-stream-5.img", 1, b"x").expect_err("twice");
    append("tcp-stream-4.img", 1, b"x").expect_err("not in order");
    append("tcp-streams.tar", 1, b"x").expect_err("not a connection");
    append("tcp-stream-6.img", 2, b"x").expect_err("shorter");
    append("tcp-stream-7.img", 2, b"xyz").expect_err("longer");
}

/// An archive of the given blocks, with the end.
fn blocks(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = parts.concat();
    bytes.extend([0; END as usize]);
    bytes
}

#[test]
fn everything_else_is_refused() {
    let of = |name: &str, size, change: &dyn Fn(&mut Header)| {
        let mut header = header(name, size);
        change(&mut header);
        header.set_cksum();
        *header.as_bytes()
    };
    let plain = |name: &str| of(name, 0, &|_| {});
    let (one, two) = (plain("tcp-stream-1.img"), plain("tcp-stream-2.img"));
    assert_eq!(listed(&blocks(&[&one, &two])).expect("list").len(), 2);
    let order = [blocks(&[&two, &one]), blocks(&[&one, &one])];
    for bytes in order {
        assert!(matches!(listed(&bytes), Err(Fault::Order(_))));
    }
    let headers = [
        plain("core-1.img"),
        plain("../tcp-stream-1.img"),
        plain("/tcp-stream-1.img"),
        of("tcp-stream-1.img", 0, &|h| {
            h.set_entry_type(EntryType::Symlink)
        }),
        of("tcp-stream-1.img", 0, &|h| {
            h.set_entry_type(EntryType::XHeader)
        }),
        of("tcp-stream-1.img", 0, &|h| h.set_mode(0o4755)),
        of("tcp-stream-1.img", 0, &|h| {
            h.as_old_mut().linkname[0] = b'x'
        }),
        of("tcp-stream-1.img", 0, &|h| h.as_old_mut().name[99] = b'x'),
        of("tcp-stream-1.img", 0, &|h| {
            h.as_ustar_mut().expect("ustar").prefix[0] = b'x'
        }),
        [0xff; BLOCK],
    ];
    for header in headers {
        let error = listed(&blocks(&[&one, &header])).expect_err("refused");
        assert!(matches!(error, Fault::Header(512)), "{error}");
    }
    // Larger than the archive, and so large that offsets overflow.
    for size in [1, 1024, (1 << 33) - 1, u64::MAX] {
        let large = of("tcp-stream-1.img", size, &|_| {});
        let error = listed(&blocks(&[&large])).expect_err("refused");
        assert!(matches!(error, Fault::Truncated), "{error}");
    }
    let trailing = [&blocks(&[&one])[..], &blocks(&[&two])].concat();
    assert!(matches!(listed(&trailing), Err(Fault::Trailing)));
    let (mut bytes, _) = archive(&IMAGES);
    for more in [1, 511, 512, 9 * 512] {
        bytes.extend(vec![0; more]);
        assert!(matches!(listed(&bytes), Err(Fault::Trailing)), "{more}");
    }
}

#[test]
fn every_truncation_is_found() {
    let (bytes, _) = archive(&IMAGES);
    for end in 0..bytes.len() {
        assert!(listed(&bytes[..end]).is_err(), "cut to {end}");
    }
}

proptest! {
    #[test]
    fn images_of_any_content_are_found_again(
        images in prop::collection::btree_map(any::<u32>().prop_map(|n| format!("tcp-stream-{n:x}.img")),
            prop::collection::vec(any::<u8>(), 0..1500), 0..20),
    ) {
        let all: Vec<(&str, &[u8])> = images.iter().map(|(name, image)| (name.as_str(), &image[..])).collect();
        let (bytes, _) = archive(&all);
        let found = listed(&bytes).expect("list");
        prop_assert_eq!(found.len(), all.len());
        for (found, (name, image)) in found.iter().zip(all) {
            prop_assert_eq!((found.name.as_str(), at(&bytes, found)), (name, image));
        }
    }

    /// What is accepted is what the writer makes of the images in it.
    #[test]
    fn a_changed_archive_is_refused_or_has_other_images(
        changes in prop::collection::vec((0..4096usize, any::<u8>()), 1..4),
        cut in 0..4096usize,
        more in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let (mut bytes, _) = archive(&IMAGES);
        for (at, byte) in changes {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        bytes.truncate(bytes.len().max(1) - cut % 2 * (cut % bytes.len()));
        bytes.extend(more);
        if let Ok(found) = listed(&bytes) {
            let images: Vec<(&str, &[u8])> = found.iter().map(|found| (found.name.as_str(), at(&bytes, found))).collect();
            prop_assert!(archive(&images).0 == bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = listed(&bytes);
    }
}
