//! Imports any bytes as a checkpoint's file. No content makes the reader panic, and what is
//! imported is an archive whose digests hold.

#![no_main]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use cedana_checkpoint::format::pages::Compression;
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::transfer::{Context, Source, import};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file: File = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    let new: File = tempfile::tempfile().expect("a file");
    let context = Context {
        store: std::path::Path::new("/nowhere"),
        compression: Compression::Zstd { level: 1 },
        key: None,
        cancelled: &|| false,
        observer: &|_| {},
    };
    let (from, to) = (Path::new("from.tar"), Path::new("to.tar"));
    if import(file, from, &new, to, &context).is_ok() {
        let opened = OpenedDir::of_file(new, to).expect("an archive");
        Source::new(opened, std::path::Path::new("/nowhere")).expect("a checkpoint");
    }
});
