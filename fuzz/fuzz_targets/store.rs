//! Parses lists of chunks and the ends of packs: any bytes, or sound ones in which a few
//! bytes are changed. The first byte of the input selects one of the four. A list that is
//! accepted is, byte for byte, what the writer makes of it, and its windows can be opened
//! or are missing from an empty store. The chunks of an index are in its pack.

#![no_main]

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::LazyLock;

use cedana_store::Store;
use cedana_store::chunk::{MAX_PAGES, Name, PAGE, Pages};
use cedana_store::list::{Chunk, List, Place, Run};
use cedana_store::memory::Memory;
use cedana_store::pack::{Encoder, FileSink, Index, PackId, PackWriter};
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(&dir.path().join("store")).expect("a store");
    (dir, store)
});

/// The end of a pack with a chunk and a patch on it, and the length of its frames.
static PACK: LazyLock<(Vec<u8>, u64)> = LazyLock::new(|| {
    let mut file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a descriptor");
    let sink = FileSink::open(copy, "pack".as_ref()).expect("a sink");
    let mut writer = PackWriter::new(sink);
    let chunk = [1; 3 * PAGE];
    let pages = Pages::of(&chunk);
    let mut frame = Vec::new();
    let mut encoder = Encoder::new(1).expect("an encoder");
    encoder.plain(&chunk, &mut frame).expect("encode");
    for (name, base) in [(pages.name(), None), (Name([2; 32]), Some(pages.name()))] {
        writer.add(name, base, &pages.0, &frame).expect("add");
    }
    let frames = writer.bytes();
    writer.finish().expect("finish");
    let mut end = Vec::new();
    file.seek(std::io::SeekFrom::Start(frames)).expect("seek");
    file.read_to_end(&mut end).expect("read");
    (end, frames)
});

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, bytes)) => list(bytes),
        Some((1, bytes)) => list(&changed(&sound(), bytes)),
        Some((2, bytes)) => index(bytes),
        Some((3, bytes)) => index(&changed(&PACK.0, bytes)),
        Some((_, bytes)) => whole(bytes),
        None => {}
    }
});

fn sound() -> Vec<u8> {
    let chunk = |name, base| Chunk {
        name: Name([name; 32]),
        place: Place {
            pack: 0,
            offset: 1000,
            stored: 500,
        },
        pages: 5,
        base,
    };
    let run = |chunk, pages| Run { chunk, pages };
    let list = List {
        page_size: PAGE as u32,
        packs: vec![PackId([1; 16])],
        chunks: vec![chunk(1, None), chunk(2, Some(0))],
        runs: vec![run(Some(0), 5), run(None, 700), run(Some(1), 5)],
    };
    list.render()
}

/// Changes bytes: a place in two bytes, and the new byte. The last change cuts them.
fn changed(sound: &[u8], input: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    let (changes, cut) = input.as_chunks::<3>();
    for [high, low, byte] in changes {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
        bytes[at] = *byte;
    }
    if let [cut, ..] = cut {
        bytes.truncate(bytes.len().saturating_sub(usize::from(*cut)));
    }
    bytes
}

fn list(bytes: &[u8]) {
    let Ok(list) = List::parse(bytes) else {
        return;
    };
    assert!(
        list.render() == bytes,
        "it has something that is not parsed"
    );
    assert_eq!(list.render_length(), bytes.len() as u64);
    // Windows of zeros take memory for each MiB of them.
    if list.raw_bytes() > 1 << 32 {
        return;
    }
    match Memory::open(&STORE.1, &list) {
        Err(_) => assert!(!list.chunks.is_empty(), "zeros need no store"),
        Ok(memory) => {
            assert!(list.chunks.is_empty(), "an empty store has no chunks");
            let mut end = 0;
            for window in 0..memory.windows() {
                let range = memory.range(window);
                assert_eq!(range.start, end, "a gap");
                assert_eq!(memory.window_at(range.end - 1), window);
                end = range.end;
            }
            assert_eq!(end, list.raw_bytes());
        }
    }
}

fn index(bytes: &[u8]) {
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    let mut end = 0;
    for entry in &index.entries {
        assert_eq!(entry.offset, end, "a gap");
        end += u64::from(entry.stored);
        assert!((1..=MAX_PAGES).contains(&(entry.pages as usize)));
        let digests = match entry.base {
            Some(_) => 0,
            None => entry.pages as usize,
        };
        assert_eq!(entry.digests.len(), digests);
    }
    assert_eq!(index.stored_bytes(), end);
}

/// Reads a file as a pack: its frames, of which only the length counts, and any end.
fn whole(end: &[u8]) {
    let file = tempfile::tempfile().expect("a file");
    let frames = match end.first() {
        Some(byte) if byte % 2 == 0 => PACK.1,
        _ => 0,
    };
    write(&file, end.get(1..).unwrap_or_default(), frames);
    if let Ok(index) = Index::read(&file) {
        assert_eq!(index.stored_bytes(), frames);
    }
}

fn write(file: &File, bytes: &[u8], at: u64) {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at).expect("write");
}
