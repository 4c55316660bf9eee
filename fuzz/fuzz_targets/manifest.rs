//! Reads a manifest, and checks that an accepted one has safe names and is the same
//! after it was written and read again.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use cedana_checkpoint::format::manifest::{Manifest, NAME};
use cedana_checkpoint::opened::OpenedDir;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fuzz_target!(|input: &[u8]| {
    let path = DIR.path().join(NAME);
    fs::write(&path, input).expect("a manifest");
    let dir = OpenedDir::open(DIR.path()).expect("the directory");
    let Ok(Some(manifest)) = Manifest::read(&dir) else {
        return;
    };
    for entry in &manifest.files {
        assert!(
            !entry.name.contains('/') && entry.name != "..",
            "a name leads out"
        );
    }
    fs::write(&path, manifest.render().expect("text")).expect("a manifest");
    let again = Manifest::read(&dir).expect("what was written");
    assert_eq!(again, Some(manifest));
});
