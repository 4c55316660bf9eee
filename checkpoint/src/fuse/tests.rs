//! Tests with a FUSE mount. They are skipped if the machine has no FUSE.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::libc;

use super::{Root, Server};
use crate::format::contents::{Directory, Node, Part};
use crate::format::pages::chunks::tests::InStore;
use crate::format::pages::{Compression, Damage, Encoder, Reader, Stored, Writer};

const FRAME: u32 = 64 << 10;

fn memory() -> Vec<u8> {
    (0..1_000_000u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> (n % 7)).to_le_bytes())
        .collect()
}

fn pages(dir: &Path, raw: &[u8]) -> PathBuf {
    let path = dir.join("pages-1.img.zst");
    let mut encoder = Encoder::new(Compression::Zstd { level: 1 }).expect("encoder");
    let mut writer = Writer::new(File::create(&path).expect("create"), FRAME);
    for chunk in raw.chunks(FRAME as usize) {
        let mut frame = Vec::new();
        let digest = encoder.encode(chunk, &mut frame).expect("encode");
        writer
            .frame(chunk.len() as u32, &frame, digest)
            .expect("frame");
    }
    writer.finish().expect("finish");
    path
}

/// A part of a file, in two frames.
fn packed(dir: &Path) -> Part {
    let path = dir.join("tcp-streams.tar");
    let bytes = &memory()[..400_000];
    fs::write(&path, bytes).expect("write");
    let stored = Stored::open(&path).expect("open");
    let (size, digest) = (bytes.len() as u64, blake3::hash(bytes));
    Part {
        reader: Arc::new(Reader::digested(stored, size, Some(digest)).expect("digest")),
        offset: 512,
        size: 300_000,
    }
}

fn directory(dir: &Path, by_page: bool) -> Directory {
    let path = dir.join("core-1.img");
    fs::write(&path, "core").expect("write");
    let core = Node::File {
        metadata: fs::metadata(&path).expect("status"),
        path,
        bytes: b"core"[..].into(),
    };
    let parent = Directory::from([("core-1.img".to_owned(), core.clone())]);
    let reader = Arc::new(Reader::open(&dir.join("pages-1.img.zst"), None).expect("open"));
    let path = dir.join("pages-2.img");
    fs::write(&path, memory()).expect("write");
    let stock = Node::Stock {
        metadata: fs::metadata(&path).expect("status"),
        stored: Arc::new(Stored::open(&path).expect("open")),
        by_page,
    };
    Directory::from([
        ("core-1.img".to_owned(), core),
        ("pages-1.img".to_owned(), Node::Pages { reader, by_page }),
        ("pages-2.img".to_owned(), stock),
        ("tcp-stream-1.img".to_owned(), Node::Packed(packed(dir))),
        ("parent".to_owned(), Node::Directory(parent)),
    ])
}

fn served(dir: &Path, memory: u64, by_page: bool) -> Option<Server> {
    served_to(dir, memory, by_page, Root::default())
}

fn served_to(dir: &Path, memory: u64, by_page: bool, root: Root) -> Option<Server> {
    match Server::start(directory(dir, by_page), memory, root) {
        Ok(server) => Some(server),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn memory_in_the_store_is_read_in_any_order() {
    let (dir, stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
    for (memory, by_page) in [(1 << 20, false), (64 << 20, false), (1 << 20, true)] {
        let reader = Arc::new(stored.reader(dir.path()).expect("open"));
        let node = Node::Pages { reader, by_page };
        let directory = Directory::from([("pages-1.img".to_owned(), node)]);
        let server = match Server::start(directory, memory, Root::default()) {
            Ok(server) => server,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let path = server.path().join("pages-1.img");
        assert!(fs::read(&path).expect("read") == stored.memory);
        let file = File::open(&path).expect("open");
        let mut part = vec![0; 300_000];
        for at in (0..stored.memory.len() - part.len()).rev().step_by(777_777) {
            file.read_exact_at(&mut part, at as u64).expect("read");
            assert!(part == stored.memory[at..at + part.len()], "at {at}");
        }
        assert!(server.damage().is_none());
    }
}

#[test]
fn directory_is_as_criu_wrote_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let raw = memory();
    pages(dir.path(), &raw);
    let Some(server) = served(dir.path(), 1 << 20, false) else {
        return;
    };
    let shown = server.path();
    let mut names: Vec<_> = fs::read_dir(&shown)
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "core-1.img",
            "pages-1.img",
            "pages-2.img",
            "parent",
            "tcp-stream-1.img"
        ]
    );
    let stream = fs::read(shown.join("tcp-stream-1.img")).expect("read");
    assert!(stream == raw[512..300_512]);
    let core = shown.join("parent/core-1.img");
    assert_eq!(fs::read_to_string(core).expect("read"), "core");
    let missing = fs::metadata(shown.join("core-2.img")).expect_err("missing");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let file = shown.join("pages-1.img");
    assert_eq!(fs::metadata(&file).expect("stat").len(), raw.len() as u64);
    assert!(fs::read(&file).expect("read") == raw);
    assert!(fs::write(shown.join("new"), "").is_err());
    assert!(server.damage().is_none());
}

#[test]
fn parallel_reads_of_any_part_in_little_memory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let raw = memory();
    pages(dir.path(), &raw);
    for by_page in [false, true] {
        let Some(server) = served(dir.path(), 2 * u64::from(FRAME), by_page) else {
            return;
        };
        let files = ["pages-1.img", "pages-2.img"].map(|name| server.path().join(name));
        thread::scope(|scope| {
            for start in 0..6usize {
                let (file, raw) = (&files[start % 2], &raw);
                scope.spawn(move || {
                    let file = File::open(file).expect("open");
                    let mut at = start * 4096;
                    while at < raw.len() {
                        let length = (at % 700_000 + 1).min(raw.len() - at);
                        let mut out = vec![0; length];
                        file.read_exact_at(&mut out, at as u64).expect("read");
                        assert!(out == raw[at..at + length], "{length} at {at}");
                        at += length + start * 10_000;
                    }
                });
            }
        });
        assert!(server.damage().is_none());
    }
}

#[test]
fn flipped_bit_fails_the_read_and_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let raw = memory();
    let path = pages(dir.path(), &raw);
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("write");
    let Some(server) = served(dir.path(), 16 << 20, true) else {
        return;
    };
    let read = fs::read(server.path().join("pages-1.img"));
    let errno = read.expect_err("damage").raw_os_error();
    assert_eq!(errno, Some(libc::EIO));
    let damage = server.damage().expect("damage");
    assert!(
        matches!(&*damage, Damage::Frame { start, end, .. } if (*start..*end).contains(&(middle as u64))),
        "{damage}"
    );
}

#[test]
fn a_changed_archive_fails_the_read_and_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    pages(dir.path(), &memory());
    let Some(server) = served(dir.path(), 1 << 20, false) else {
        return;
    };
    let archive = File::options()
        .write(true)
        .open(dir.path().join("tcp-streams.tar"));
    let written = archive.expect("open").write_at(b"changed", 1000);
    written.expect("write");
    fs::read(server.path().join("tcp-stream-1.img")).expect_err("damage");
    let damage = server.damage().expect("damage").to_string();
    assert!(damage.contains("tcp-streams.tar"), "{damage}");
}

#[test]
fn stops_while_a_file_is_open() {
    let dir = tempfile::tempdir().expect("tempdir");
    pages(dir.path(), &memory());
    let Some(server) = served(dir.path(), 1 << 20, false) else {
        return;
    };
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(server.path().join("pages-1.img"))
        .expect("open");
    drop(server);
    let read = file.read_at(&mut [0; 4096], 0).expect_err("no server");
    assert_eq!(read.raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn the_containers_root_may_read_roots_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    pages(dir.path(), &memory());
    let Some(server) = served_to(dir.path(), 1 << 20, false, Root(100_000)) else {
        return;
    };
    for (stored, shown) in [
        ("core-1.img", "core-1.img"),
        ("pages-1.img.zst", "pages-1.img"),
    ] {
        let own = fs::metadata(dir.path().join(stored)).expect("stored");
        let seen = fs::metadata(server.path().join(shown)).expect("served");
        if own.uid() == 0 {
            assert_eq!((seen.uid(), seen.gid()), (100_000, own.gid()), "{shown}");
            assert_eq!(seen.mode() & 0o440, 0o440, "{shown}");
        }
    }
}

#[test]
fn small_files_of_any_size_are_read_by_many_at_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("core-1.img");
    fs::write(&path, "").expect("write");
    let raw = memory();
    let sizes = [0, 1, 511, 4095, 4096, 4097, 70_000];
    let directory = sizes.map(|size| {
        let node = Node::File {
            path: path.clone(),
            metadata: fs::metadata(&path).expect("status"),
            bytes: raw[..size].into(),
        };
        (format!("{size}.img"), node)
    });
    let server = match Server::start(Directory::from(directory), 1 << 20, Root::default()) {
        Ok(server) => server,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let shown = server.path();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for size in sizes.into_iter().cycle().take(200) {
                    let file = File::open(shown.join(format!("{size}.img"))).expect("open");
                    assert_eq!(file.metadata().expect("status").len(), size as u64);
                    let mut bytes = vec![1; size + 1];
                    let read = file.read_at(&mut bytes, 0).expect("read");
                    assert!(bytes[..read] == raw[..size], "{size}");
                }
            });
        }
    });
}
