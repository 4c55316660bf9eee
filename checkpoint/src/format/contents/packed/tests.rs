use std::fs;
use std::path::Path;

use super::super::tests::{opened, stored};
use super::super::{Contents, MAX_IN_MEMORY};
use super::*;
use crate::format::manifest::{Kind, Manifest};
use crate::format::streams::Fault;
use crate::format::streams::tests::{IMAGES, archive};
use crate::format::unpack;
use crate::images::Images;

/// Puts an archive in a checkpoint.
pub(crate) fn put(dir: &Path, manifest: &mut Manifest, archive: &[u8]) {
    fs::write(dir.join(streams::NAME), archive).expect("write");
    manifest.files.retain(|entry| entry.kind != Kind::Streams);
    let (size, digest) = (archive.len() as u64, blake3::hash(archive));
    let entry = Entry::whole(streams::NAME, Kind::Streams, size, digest);
    manifest.files.push(entry);
    manifest.format = Manifest::format_of(&manifest.files);
}

fn with(archive: &[u8]) -> (tempfile::TempDir, Manifest) {
    let (dir, mut manifest) = stored();
    put(dir.path(), &mut manifest, archive);
    (dir, manifest)
}

/// Opens it with this much memory for small files.
fn limited(dir: &Path, manifest: &Manifest, memory: u64) -> Result<Contents, Error> {
    let mut opening = Opening {
        memory,
        ..Opening::new(Path::new("/none/store"))
    };
    opening.ours(&OpenedDir::open(dir).expect("open"), manifest)
}

fn image(contents: &Contents, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    contents.image(name)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn images_in_an_archive_are_files() {
    let (dir, manifest) = with(&archive(&IMAGES).0);
    // The larger files of the checkpoint exceed the second limit, and so does the archive.
    for memory in [MAX_IN_MEMORY, 100] {
        let contents = limited(dir.path(), &manifest, memory).expect("open");
        assert!(!contents.directory.contains_key(streams::NAME));
        let listed = contents.files().expect("list");
        let to = tempfile::tempdir().expect("tempdir");
        unpack(&contents.directory, to.path()).expect("unpack");
        for (name, bytes) in IMAGES {
            let framed = matches!(contents.directory[name], Node::Packed(_));
            assert_eq!(framed, memory == 100);
            assert!(listed.contains(&(name.to_owned(), bytes.len() as u64)));
            assert_eq!(image(&contents, name).expect("read"), bytes);
            assert_eq!(fs::read(to.path().join(name)).expect("read"), bytes);
        }
        assert!(!to.path().join(streams::NAME).exists());
    }
}

#[test]
fn what_was_verified_is_what_is_read() {
    let bytes = archive(&IMAGES).0;
    let (dir, manifest) = with(&bytes);
    let held = opened(dir.path(), &manifest).expect("open");
    let framed = limited(dir.path(), &manifest, 100).expect("open");
    let mut changed = bytes.clone();
    changed[1024] ^= 1;
    let file = dir.path().join(streams::NAME);
    fs::write(&file, changed).expect("write");
    assert_eq!(image(&held, "tcp-stream-10.img").expect("held"), b"ten");
    image(&framed, "tcp-stream-10.img").expect_err("it was changed");
    for memory in [MAX_IN_MEMORY, 100] {
        let error = limited(dir.path(), &manifest, memory).expect_err("changed");
        assert!(error.to_string().contains(streams::NAME), "{error}");
    }
    fs::remove_file(&file).expect("remove");
    let error = opened(dir.path(), &manifest).expect_err("missing");
    assert!(error.to_string().contains(streams::NAME), "{error}");
}

#[test]
fn a_foreign_archive_with_the_right_digest_is_refused() {
    let whole = archive(&IMAGES).0;
    let cut = &whole[..whole.len() - 512];
    let more = [&whole[..], &[0; 512]].concat();
    for bytes in [cut, &more, b"not a tar file", b""] {
        let (dir, manifest) = with(bytes);
        for memory in [MAX_IN_MEMORY, 0] {
            let error = limited(dir.path(), &manifest, memory).expect_err("refused");
            let text = error.to_string();
            assert!(text.contains("tcp-streams.tar is not an archive"), "{text}");
            let Error::Streams { fault, .. } = error else {
                panic!("{error}");
            };
            assert!(!matches!(fault, Fault::Read(_)), "{fault}");
        }
    }
}

#[test]
fn an_image_that_is_a_file_too_is_refused() {
    let (dir, mut manifest) = with(&archive(&IMAGES).0);
    let name = "tcp-stream-10.img";
    // Smaller and larger than the archive, so it is read before and after it.
    for size in [1, 1 << 20] {
        let bytes = vec![0; size];
        fs::write(dir.path().join(name), &bytes).expect("write");
        manifest.files.retain(|entry| entry.name != name);
        let digest = blake3::hash(&bytes);
        let entry = Entry::whole(name, Kind::Image, size as u64, digest);
        manifest.files.push(entry);
        let error = opened(dir.path(), &manifest).expect_err("twice");
        assert!(matches!(error, Error::Twice { .. }), "{error}");
    }
    // A file that the manifest does not list is not part of the checkpoint.
    manifest.files.retain(|entry| entry.name != name);
    let contents = opened(dir.path(), &manifest).expect("open");
    assert_eq!(image(&contents, name).expect("read"), b"ten");
}
