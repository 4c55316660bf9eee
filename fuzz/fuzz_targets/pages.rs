//! Reads page files: any file, any trailer, or a frame of any content with a correct
//! digest. The first byte of the input selects one of the three.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use cedana_checkpoint::format::pages::{Decoder, Digest, MAX_FRAME, Reader, Table, TableBuilder};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

/// Limit of the raw bytes that are decoded per input, for many inputs per second.
const MOST: u64 = 4 << 20;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, file)) => read(file),
        Some((1, trailer)) => {
            if let Ok(table) = Table::parse(trailer) {
                assert!(table.frames() <= trailer.len(), "more frames than bytes");
                assert!(table.frame_size() <= MAX_FRAME, "frames too large");
            }
        }
        Some((kilobytes, frame)) => read(&signed(u32::from(*kilobytes) * 4096, frame)),
        None => {}
    }
});

/// A page file of one frame whose trailer gives it `raw_len` raw bytes.
fn signed(raw_len: u32, frame: &[u8]) -> Vec<u8> {
    let mut builder = TableBuilder::new(raw_len);
    if builder
        .frame(raw_len, frame.len() as u32, Digest::of(frame))
        .is_err()
    {
        return Vec::new();
    }
    let (trailer, _) = builder.finish();
    [frame, &trailer].concat()
}

fn read(file: &[u8]) {
    let path: PathBuf = DIR.path().join("pages-1.img.zst");
    fs::write(&path, file).expect("a page file");
    let Ok(reader) = Reader::open(&path, None) else {
        return;
    };
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    let mut raw = 0;
    for frame in 0..reader.frames() {
        if reader.decode(frame, &mut decoder, &mut out).is_err() {
            break;
        }
        raw += out.len() as u64;
        if raw > MOST {
            break;
        }
    }
    let mut some = [0; 5000];
    for offset in [0, 4095, reader.raw_bytes().saturating_sub(1), u64::MAX] {
        let _ = reader.read_at(offset, &mut decoder, &mut some);
    }
}
