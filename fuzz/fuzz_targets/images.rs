//! Reads a complete checkpoint in which one of CRIU's images is replaced, and compares it
//! with a configuration. The input is the image's name, a zero byte and its content.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use cedana_checkpoint::format::{self, contents};
use cedana_checkpoint::precheck::{self, Granted, MountEntry, Mounts, Namespace};
use cedana_checkpoint::{images, inspect, lazy};
use libfuzzer_sys::{Corpus, fuzz_target};
use tempfile::TempDir;

const WHOLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../checkpoint/src/inspect/data"
);

/// Threads and processes that resemble others. Without their files an input takes a
/// third of the time.
const TWINS: [&str; 7] = ["-1.", "-7.", "-8.", "-9.", "-10.", "-14.", "-15."];

static DIR: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(WHOLE).expect("a whole checkpoint") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if !TWINS.iter().any(|number| name.contains(number)) {
            fs::copy(entry.path(), dir.path().join(name)).expect("a copy");
        }
    }
    dir
});

/// A configuration with which all of the precheck is reached.
static GRANTED: LazyLock<Granted> = LazyLock::new(|| Granted {
    seccomp: true,
    no_new_privileges: true,
    namespaces: [Namespace::Cgroup, Namespace::User, Namespace::Mount].into(),
    mounts: Mounts {
        root: DIR.path().to_owned(),
        entries: vec![MountEntry {
            destination: "/dev".to_owned(),
            kind: "tmpfs".to_owned(),
            ..MountEntry::default()
        }],
        ..Mounts::default()
    },
    ..Granted::default()
});

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((name, content)) = split(input) else {
        return Corpus::Reject;
    };
    let path = DIR.path().join(name);
    let original = path.exists().then(|| Path::new(WHOLE).join(name));
    fs::write(&path, content).expect("an image");
    // This reads the sockets and the network, too.
    let _ = inspect::inspect(DIR.path());
    let _ = images::verify(DIR.path());
    let _ = lazy::layout::Layout::read(DIR.path(), 4096);
    let _ = precheck::check(DIR.path(), &GRANTED);
    let node = contents::Node::File {
        metadata: path.metadata().expect("a status"),
        path: path.clone(),
        bytes: content.into(),
    };
    let mut directory = contents::Directory::from([(name.to_owned(), node)]);
    format::reserve(&mut directory, 0);
    match original {
        Some(original) => drop(fs::copy(original, path).expect("the image as it was")),
        None => fs::remove_file(path).expect("no image"),
    }
    Corpus::Keep
});

/// Splits an input into a file name, which may be new, and its content.
fn split(input: &[u8]) -> Option<(&str, &[u8])> {
    let zero = input.iter().take(32).position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&input[..zero]).ok()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.starts_with('.') || name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    Some((name, &input[zero + 1..]))
}
