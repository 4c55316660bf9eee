use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cedana_store::Store;
use cedana_store::catalogue::{CheckpointId, NewCheckpoint};
use cedana_store::list::List;
use cedana_store::memory::Memory;
use cedana_store::pack::Decoder;

use super::tests::memory;
use super::{Capture, Captured, Error, Options};
use crate::format::manifest::Kind;
use crate::format::pages::Compression;

const OPTIONS: Options = Options {
    compression: Compression::Zstd { level: 1 },
    memory: 16 << 20,
    flush: false,
    expected: None,
};

fn start(
    dir: &Path,
    store: &Store,
    options: Options,
    quota: Option<u64>,
) -> Result<Capture, Error> {
    Capture::to_store(dir, store, None, options, (1, quota), Arc::new(|_| {}))
}

fn publish(captured: &Captured) {
    let row = NewCheckpoint {
        id: CheckpointId::random().expect("an ID"),
        name: None,
        path: "/checkpoint".into(),
        raw_bytes: captured.raw_bytes,
        bytes: 0,
        subject: serde_json::json!({}),
        details: serde_json::json!({}),
    };
    let session = captured.session.as_ref().expect("a session");
    session.publish(&row).expect("publish");
}

fn read(store: &Store, list: &Path) -> Vec<u8> {
    let list = List::parse(&fs::read(list).expect("a list")).expect("a list");
    let memory = Memory::open(store, &list).expect("open");
    let mut bytes = vec![1; memory.raw_bytes() as usize];
    let mut decoder = Decoder::default();
    for window in 0..memory.windows() {
        let range = memory.range(window);
        let out = &mut bytes[range.start as usize..range.end as usize];
        memory.decode(window, &mut decoder, out).expect("decode");
    }
    bytes
}

#[test]
fn growing_files_are_stored_once_and_emptied() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::create(&dir.path().join("store")).expect("a store");
    let content = memory(1, 9000);
    for (round, options) in [
        OPTIONS,
        Options {
            memory: 128 << 20,
            ..OPTIONS
        },
    ]
    .into_iter()
    .enumerate()
    {
        let images = dir.path().join(format!("images-{round}"));
        fs::create_dir(&images).expect("mkdir");
        let capture = start(&images, &store, options, None).expect("start");
        let mut first = File::create(images.join("pages-1.img")).expect("create");
        for part in content.chunks(3_000_000) {
            first.write_all(part).expect("write");
        }
        drop(first);
        // A process with the same memory, and one without any.
        fs::write(images.join("pages-2.img"), &content[4096..]).expect("write");
        File::create(images.join("pages-3.img")).expect("create");
        let captured = capture.finish().expect("finish");
        publish(&captured);
        assert_eq!(captured.raw_bytes, 2 * content.len() as u64 - 4096);
        let names: Vec<&str> = captured.files.iter().map(|file| &*file.name).collect();
        for number in 1..=3 {
            assert!(
                names.contains(&&*format!("pages-{number}.img.chunks")),
                "{names:?}"
            );
            assert!(!images.join(format!("pages-{number}.img")).exists());
        }
        assert!(captured.files.iter().all(|file| file.kind == Kind::Chunks));
        assert!(read(&store, &images.join("pages-1.img.chunks")) == content);
        assert!(read(&store, &images.join("pages-2.img.chunks")) == content[4096..]);
        assert!(read(&store, &images.join("pages-3.img.chunks")).is_empty());
        // The second time nothing but the lists is stored.
        let most = [content.len() as u64, 200_000][round];
        assert!(captured.stored_bytes < most, "{}", captured.stored_bytes);
    }
}

#[test]
fn a_full_store_fails_the_capture_and_nothing_is_left() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::create(&dir.path().join("store")).expect("a store");
    let images = dir.path().join("images");
    fs::create_dir(&images).expect("mkdir");
    let capture = start(&images, &store, OPTIONS, Some(1 << 20)).expect("start");
    fs::write(images.join("pages-1.img"), memory(1, 9000)).expect("write");
    let error = capture.finish().expect_err("the quota");
    assert!(
        error.is_full() && error.to_string().contains("store.quota"),
        "{error}"
    );
    assert_eq!(fs::read_dir(store.incoming()).expect("list").count(), 0);
    let dropped = start(&images, &store, OPTIONS, None).expect("start");
    drop(dropped);
    assert_eq!(fs::read_dir(store.incoming()).expect("list").count(), 0);
    assert_eq!(store.place().list().expect("list"), []);
}
