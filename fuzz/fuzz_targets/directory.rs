//! Fills a directory with entries of every kind under the names that matter, and reads
//! it as a checkpoint. Each two bytes of the input make an entry: a name, and a kind with
//! its content or target.
//!
//! Beside it are a directory with a secret and one that is a parent: whatever the entries
//! are, no secret is in the contents, and no file beside the checkpoint is made, changed
//! or removed.

#![no_main]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use cedana_checkpoint::format::contents::{self, Contents, Directory, Node};
use cedana_checkpoint::format::manifest::{Manifest, NAME};
use cedana_checkpoint::format::{publish, streams};
use cedana_checkpoint::images::Images;
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::{images, inspect};
use libfuzzer_sys::fuzz_target;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const SECRET: &[u8] = b"the secret of another directory";

const NAMES: [&str; 17] = [
    NAME,
    "inventory.img",
    "core-1.img",
    "pagemap-1.img",
    "pages-1.img",
    "pages-1.img.zst",
    "descriptors.json",
    "parent",
    ".cedana-new",
    ".cedana-ready",
    ".cedana-moving",
    ".cedana-ready/inventory.img",
    ".cedana-moving/core-1.img",
    ".cedana-moving/parent",
    ".cedana-new/x",
    "parent/core-1.img",
    streams::NAME,
];

const TARGETS: [&str; 12] = [
    "../secret",
    "../secret/core-1.img",
    "../sibling",
    "../sibling/../secret",
    "../checkpoint",
    "..",
    ".",
    "/",
    "core-1.img",
    "inventory.img",
    "../../..",
    "missing",
];

/// The contents of files: an inventory, an image, a manifest without files, and garbage.
fn content(number: u8) -> Vec<u8> {
    let digest = "0".repeat(64);
    let manifest = |parent: &str, files: &str| {
        format!(
            r#"{{"format":2,"created":0,"files":[{files}],"parent":"{parent}","machine":{{"architecture":"","page_size":4096,"kernel":""}},"versions":{{"cedana":"","criu":"","runtime":""}},"container":{{"id":""}},"cost":{{"dump_us":0,"total_us":0,"raw_bytes":0,"stored_bytes":0}}}}"#
        )
    };
    match number % 6 {
        0 => b"\x16\x31\x31\x58\x02\0\0\0\x08\x01".to_vec(),
        1 => b"\x19\x43\x56\x54\x47\x38\x05\x55\0\0\0\0".to_vec(),
        2 => manifest(TARGETS[usize::from(number / 6) % TARGETS.len()], "").into_bytes(),
        3 => {
            let file = |name: &str| {
                let kind = if name == streams::NAME {
                    "streams"
                } else {
                    "image"
                };
                format!(r#"{{"name":"{name}","kind":"{kind}","size":10,"digest":"{digest}"}}"#)
            };
            manifest("", &file(NAMES[usize::from(number / 6) % NAMES.len()])).into_bytes()
        }
        4 => Vec::new(),
        _ => vec![number; usize::from(number)],
    }
}

fn fill(dir: &Path, input: &[u8]) {
    for pair in input.as_chunks::<2>().0.iter().take(32) {
        let [name, what] = pair;
        let path = dir.join(NAMES[usize::from(*name) % NAMES.len()]);
        let target = TARGETS[usize::from(what / 8) % TARGETS.len()];
        // A name that is taken, or below a link, makes no entry.
        let below = path.parent().filter(|parent| *parent != dir);
        if below.is_some_and(|below| fs::symlink_metadata(below).is_ok_and(|m| !m.is_dir())) {
            continue;
        }
        let _ = match what % 8 {
            0 => mkfifo(&path, Mode::S_IRWXU).map_err(Into::into),
            1 | 2 => symlink(target, &path),
            3 => fs::hard_link(dir.join(target), &path),
            4 => fs::create_dir(&path),
            _ if path.exists() => Ok(()),
            _ => fs::write(&path, content(what / 8)),
        };
    }
}

fn read_all(directory: &Directory) {
    for node in directory.values() {
        match node {
            Node::Directory(within) => read_all(within),
            Node::File { bytes, .. } => assert!(**bytes != *SECRET, "a secret was read"),
            Node::Stock { stored, .. } => {
                let mut bytes = Vec::new();
                let _ = (&stored.file).take(1000).read_to_end(&mut bytes);
                assert!(bytes != SECRET, "a secret can be read");
            }
            Node::Pages { .. } | Node::Packed(_) => {}
        }
    }
}

fn open(dir: &OpenedDir) -> Option<Contents> {
    match Manifest::read(dir).ok()? {
        Some(manifest) => contents::open(dir, &manifest, Path::new("/none/store")).ok(),
        None => contents::stock(dir, Path::new("/none/store")).ok(),
    }
}

fuzz_target!(|input: &[u8]| {
    let above = tempfile::tempdir().expect("a directory");
    let at = |name: &str| above.path().join(name);
    for name in ["checkpoint", "secret", "sibling"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    for name in ["core-1.img", "inventory.img", "descriptors.json"] {
        fs::write(at("secret").join(name), SECRET).expect("a file");
    }
    fs::write(at("sibling/core-1.img"), content(1)).expect("a file");
    fill(&at("checkpoint"), input);
    let dir = OpenedDir::open(&at("checkpoint")).expect("the checkpoint");
    let _ = publish::recover(&dir);
    if let Some(contents) = open(&dir) {
        let _ = images::verify(&contents);
        let _ = contents.files();
        // The secret directory may be named as a parent: it is a sibling, too.
        let mut directory = contents.directory.clone();
        directory.remove("parent");
        read_all(&directory);
    }
    let _ = inspect::inspect(&at("checkpoint"));
    for name in ["core-1.img", "inventory.img", "descriptors.json"] {
        let mut bytes = Vec::new();
        let file = File::open(at("secret").join(name)).expect("the file stays");
        file.take(1000)
            .read_to_end(&mut bytes)
            .expect("its content");
        assert_eq!(bytes, SECRET, "it stays as it is");
    }
    for (name, count) in [("secret", 3), ("sibling", 1)] {
        let entries = fs::read_dir(at(name)).expect("the directory stays");
        assert_eq!(entries.count(), count, "nothing is added to {name}");
    }
});
