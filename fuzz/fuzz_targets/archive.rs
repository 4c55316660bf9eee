//! Reads any bytes as a checkpoint's archive. Every entry lies within the archive, and no
//! content makes a reader panic or read beyond its entry.

#![no_main]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use cedana_checkpoint::archive::Index;
use cedana_checkpoint::format::contents;
use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::Images;
use cedana_checkpoint::opened::OpenedDir;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    for name in index.names() {
        let (start, length) = index.get(name).expect("a listed name");
        assert!(
            start
                .checked_add(length)
                .is_some_and(|end| end <= bytes.len() as u64)
        );
        assert!(!name.contains('/') && name != "..");
    }
    let mut file: File = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    let opened = OpenedDir::of_file(file, Path::new("archive.tar")).expect("the same index");
    let Ok(Some(manifest)) = Manifest::read(&opened) else {
        return;
    };
    let Ok(contents) = contents::open(&opened, &manifest, Path::new("/none/store")) else {
        return;
    };
    for (name, size) in contents.files().expect("listed") {
        let mut read = Vec::new();
        if let Ok(image) = contents.image(&name) {
            let _ = image.take(1 << 16).read_to_end(&mut read);
        }
        assert!(read.len() as u64 <= size);
    }
});
