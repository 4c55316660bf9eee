use super::*;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(7);
    header
}

/// An archive of directories (no content) and files.
fn archive(entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, content) in entries {
        let kind = match content {
            Some(_) => EntryType::Regular,
            None => EntryType::Directory,
        };
        let content = content.unwrap_or_default();
        let mut header = header(kind, content.len() as u64);
        tar.append_data(&mut header, path, content).expect("append");
    }
    tar.into_inner().expect("an archive")
}

type Read1 = (String, bool, Vec<u8>);

fn read(bytes: &[u8]) -> Result<Vec<Read1>, Fault> {
    let mut tar = Foreign::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = tar.entry()? {
        let mut content = Vec::new();
        tar.read_to_end(&mut content)?;
        assert_eq!(content.len() as u64, entry.size);
        found.push((entry.path, entry.is_directory, content));
    }
    Ok(found)
}

#[test]
fn files_directories_and_long_names_are_read() {
    let long = format!("checkpoint/{}", "x".repeat(180));
    let bytes = archive(&[
        ("./checkpoint/", None),
        ("checkpoint/a.img", Some(&[1; 700])),
        (&long, Some(b"long")),
        ("config.dump", Some(b"")),
    ]);
    let found = read(&bytes).expect("an archive");
    let paths: Vec<_> = found.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(
        paths,
        ["checkpoint", "checkpoint/a.img", &long, "config.dump"]
    );
    assert!(found[0].1 && !found[1].1);
    assert_eq!(found[2].2, b"long");
    // A content that is not read is skipped.
    let mut tar = Foreign::new(&bytes[..]);
    let mut count = 0;
    while let Some(entry) = tar.entry().expect("an entry") {
        assert_eq!(entry.modified, 7);
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn pax_headers_name_and_size_an_entry() {
    let mut tar = Builder::new(Vec::new());
    let records = [
        ("path", "checkpoint/pages-1.img".as_bytes()),
        ("size", b"5"),
        ("SCHILY.xattr.security.selinux", b"x"),
    ];
    tar.append_pax_extensions(records).expect("append");
    let mut head = Header::new_ustar();
    head.set_path("short").expect("a path");
    head.set_size(5);
    head.set_cksum();
    tar.append(&head, &b"bytes"[..]).expect("append");
    let found = read(&tar.into_inner().expect("an archive")).expect("an archive");
    assert_eq!(
        found,
        [(
            "checkpoint/pages-1.img".to_owned(),
            false,
            b"bytes".to_vec()
        )]
    );
}

#[test]
fn what_could_lead_out_of_the_archive_is_refused() {
    for (kind, path, why) in [
        (EntryType::Symlink, "checkpoint/parent", "a link"),
        (EntryType::Link, "a", "a link"),
        (EntryType::Fifo, "a", "neither"),
        (EntryType::Char, "a", "neither"),
        (EntryType::GNUSparse, "a", "sparse"),
        (EntryType::Regular, "/etc/passwd", "relative"),
        (EntryType::Regular, "a/../../b", "leads out"),
        (EntryType::Regular, "..", "leads out"),
    ] {
        let mut head = header(kind, 0);
        let place = &mut head.as_old_mut().name;
        place[..path.len()].copy_from_slice(path.as_bytes());
        head.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&head, &b""[..]).expect("append");
        let error = read(&tar.into_inner().expect("an archive")).expect_err(path);
        assert!(error.to_string().contains(why), "{path}: {error}");
        assert!(error.to_string().contains(path), "{path}: {error}");
    }
}

#[test]
fn truncated_and_longer_archives_are_refused() {
    let whole = archive(&[("a", Some(b"content")), ("b", Some(&[1; 600]))]);
    for end in 0..whole.len() {
        let error = read(&whole[..end]).expect_err("truncated");
        let is_truncated = matches!(&error, Fault::Truncated { .. })
            || matches!(&error, Fault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof);
        assert!(is_truncated, "{end}: {error}");
    }
    let mut more = whole.clone();
    more.resize(more.len() + 9000, 0);
    read(&more).expect("as GNU tar pads");
    more.push(1);
    assert!(matches!(read(&more), Err(Fault::Entry { .. })));
    more.pop();
    more.resize(more.len() + MAX_PADDING as usize, 0);
    assert!(matches!(read(&more), Err(Fault::Entry { .. })));
}

#[test]
fn a_long_extension_takes_no_memory() {
    let mut tar = Builder::new(Vec::new());
    let mut head = header(EntryType::XHeader, MAX_EXTENSION + 1);
    head.set_cksum();
    tar.append(&head, &b""[..]).expect("append");
    let error = read(tar.get_ref()).expect_err("too long");
    assert!(error.to_string().contains("too long"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        let _ = read(&bytes);
    }

    /// A changed header is refused or read as some other plain path.
    #[test]
    fn no_change_of_a_header_leads_out(
        at in 0usize..512, value: u8, kind in prop::option::of(any::<u8>()), fix: bool,
    ) {
        let mut bytes = archive(&[("checkpoint/a", Some(b"content")), ("b", Some(&[1; 600]))]);
        bytes[at] = value;
        if let Some(kind) = kind {
            bytes[header::TYPE] = kind;
        }
        if fix {
            let mut head: Bytes = bytes[..512].try_into().expect("a block");
            let sum = format!("{:06o}\0 ", header::checksum(&head));
            head[header::CHECKSUM].copy_from_slice(sum.as_bytes());
            bytes[..512].copy_from_slice(&head);
        }
        if let Ok(found) = read(&bytes) {
            for (path, ..) in found {
                prop_assert!(path.is_empty() || path.split('/').all(crate::opened::is_plain), "{path:?}");
            }
        }
    }

    #[test]
    fn any_path_is_plain_or_refused(path in "[a./\\x00]{0,12}") {
        if let Ok(normal) = normal(&path) {
            prop_assert!(normal.is_empty() || normal.split('/').all(crate::opened::is_plain));
        }
    }
}
