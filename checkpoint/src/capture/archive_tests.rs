use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::tests::memory;
use super::{Archive, Capture, Options};
use crate::archive::Index;
use crate::format::manifest::Kind;
use crate::format::pages::{Compression, Decoder, Reader, Stored};
use crate::opened::OpenedDir;

fn options(compression: Compression, memory: u64) -> Options {
    Options {
        compression,
        memory,
        flush: true,
        expected: None,
    }
}

fn start(dir: &Path, options: Options) -> Capture {
    let path = dir.join("checkpoint.tar");
    let archive = Archive {
        file: File::create(&path).expect("create"),
        path,
    };
    let staging = dir.join("staging");
    fs::create_dir(&staging).expect("mkdir");
    Capture::to_archive(&staging, archive, options, Arc::new(|_| {})).expect("start")
}

#[test]
fn page_files_go_straight_into_the_archive() {
    for compression in [Compression::Zstd { level: 1 }, Compression::None] {
        for buffers in [1 << 20, 16 << 20, 128 << 20] {
            let dir = tempfile::tempdir().expect("tempdir");
            let capture = start(dir.path(), options(compression, buffers));
            let staging = dir.path().join("staging");
            // One after the other, and the last two at the same time.
            let sizes = [(1, 5_000), (2, 0), (3, 3), (12, 2_000), (4, 1_000)];
            for (id, pages) in &sizes[..3] {
                let path = staging.join(format!("pages-{id}.img"));
                fs::write(path, memory(*id, *pages)).expect("write");
            }
            let mut files: Vec<_> = sizes[3..]
                .iter()
                .map(|(id, pages)| {
                    let path = staging.join(format!("pages-{id}.img"));
                    (File::create(path).expect("create"), memory(*id, *pages))
                })
                .collect();
            for part in 0..10 {
                for (file, raw) in &mut files {
                    let piece = raw.len() / 10;
                    file.write_all(&raw[part * piece..][..piece])
                        .expect("write");
                }
            }
            drop(files);
            let captured = capture.finish().expect("finish");
            let mut archive = captured.archive.expect("an archive");
            let (size, digest) = archive.add("core-1.img", &mut &b"small"[..]).expect("add");
            assert_eq!((size, digest), (5, blake3::hash(b"small")));
            archive.finish().expect("finish");
            assert_eq!(fs::read_dir(&staging).expect("list").count(), 0);

            let opened = OpenedDir::open_any(&dir.path().join("checkpoint.tar")).expect("open");
            let stored = |name: &str| Stored {
                path: name.into(),
                file: opened.file(name).expect("an entry"),
            };
            for (id, pages) in sizes {
                let raw = memory(id, pages);
                let name = format!("pages-{id}.img");
                let find = |kind| {
                    let mut files = captured.files.iter();
                    files.find(|entry| entry.kind == kind && entry.raw_name() == name)
                };
                let reader = match compression {
                    Compression::None => {
                        let entry = find(Kind::Plain).expect("listed");
                        let table = stored(&format!("{name}.table"));
                        Reader::plain(stored(&name), &table, entry.hash(), None)
                    }
                    Compression::Zstd { .. } => {
                        let entry = find(Kind::Pages).expect("listed");
                        assert_eq!(
                            opened.file(&entry.name).expect("file").length().ok(),
                            Some(entry.size)
                        );
                        Reader::compressed(stored(&entry.name), entry.hash(), None)
                    }
                };
                let mut read = vec![0; raw.len()];
                let reader = reader.expect("a page file");
                let length = reader.read_at(0, &mut Decoder::default(), &mut read);
                assert_eq!(length.expect("read"), raw.len());
                assert!(read == raw, "{name}");
            }
            let mut small = String::new();
            let mut file = opened.file("core-1.img").expect("an entry");
            file.read_to_string(&mut small).expect("read");
            assert_eq!(small, "small");
        }
    }
}

#[test]
fn an_archive_that_was_not_finished_is_empty() {
    let dir = tempfile::tempdir().expect("tempdir");
    let capture = start(
        dir.path(),
        options(Compression::Zstd { level: 1 }, 16 << 20),
    );
    fs::write(dir.path().join("staging/pages-1.img"), memory(1, 3)).expect("write");
    let mut archive = capture.finish().expect("finish").archive.expect("archive");
    archive.add("core-1.img", &mut &b"small"[..]).expect("add");
    drop(archive);
    let file = File::open(dir.path().join("checkpoint.tar")).expect("open");
    assert_eq!(
        Index::read(&file)
            .ok()
            .map(|index| index.names().count())
            .unwrap_or(0),
        0
    );
}
