use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::memory::Memory;
use super::{Capture, Error, Options};
use crate::format::manifest::Kind;
use crate::format::pages::{Compression, Reader, Stored};
use crate::progress::Progress;

const ZSTD: Options = Options {
    compression: Compression::Zstd { level: 1 },
    memory: 16 << 20,
    flush: true,
    expected: None,
};

const NONE: Options = Options {
    compression: Compression::None,
    memory: 16 << 20,
    flush: true,
    expected: None,
};

/// Options with enough memory to bypass the page cache.
const DIRECT: Options = Options {
    memory: 128 << 20,
    ..ZSTD
};

fn start(dir: &Path, options: Options) -> Capture {
    Capture::start(dir, options, Arc::new(|_| {})).expect("start")
}

/// Pages of which half compress.
pub(super) fn memory(seed: u64, pages: usize) -> Vec<u8> {
    let mut word = seed | 1;
    (0..pages * 512)
        .flat_map(|i| {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let word = if i / 512 % 2 == 0 { word } else { 7 };
            word.to_le_bytes()
        })
        .collect()
}

fn stored(dir: &Path, name: &str) -> Vec<u8> {
    let file = File::open(dir.join(format!("{name}.zst"))).expect("stored");
    zstd::decode_all(file).expect("whole")
}

/// Waits for another thread.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_growing_file_is_stored_and_emptied_while_it_grows() {
    let dir = tempfile::tempdir().expect("tempdir");
    let seen = Arc::new(AtomicU64::new(0));
    let observer = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress: Progress| {
            seen.fetch_max(progress.done, Ordering::Relaxed);
        })
    };
    let capture = Capture::start(dir.path(), ZSTD, observer).expect("start");
    let path = dir.path().join("pages-1.img");
    let raw = memory(1, 5000);
    let mut file = File::create(&path).expect("create");
    file.write_all(&raw[..16 << 20]).expect("write");
    // The file is still open, so a rest of less than a piece is not stored yet.
    until("stored while it grows", || {
        seen.load(Ordering::Relaxed) >= 14 << 20
    });
    let meta = fs::metadata(&path).expect("meta");
    assert!(meta.len() == 16 << 20 && meta.blocks() * 512 < 8 << 20);
    file.write_all(&raw[16 << 20..]).expect("write");
    drop(file);
    let captured = capture.finish().expect("finish");
    assert!(!path.exists());
    assert_eq!(stored(dir.path(), "pages-1.img"), raw);
    assert_eq!(captured.raw_bytes, raw.len() as u64);
    assert!(captured.punched && captured.stored_bytes < captured.raw_bytes * 6 / 10);
    let [entry] = &captured.files[..] else {
        panic!("{captured:?}")
    };
    let path = dir.path().join(&entry.name);
    assert_eq!(entry.size, fs::metadata(&path).expect("meta").len());
    let reader = Reader::open(&path, entry.hash()).expect("the entry's digest");
    drop(reader);
}

#[test]
fn files_that_bypass_the_page_cache_are_the_same() {
    let dir = tempfile::tempdir().expect("tempdir");
    let capture = start(dir.path(), DIRECT);
    // Several blocks, one, none.
    let sizes = [(1, 10_000), (2, 3), (3, 0)];
    for (id, pages) in sizes {
        let path = dir.path().join(format!("pages-{id}.img"));
        fs::write(path, memory(id, pages)).expect("write");
    }
    let captured = capture.finish().expect("finish");
    for (id, pages) in sizes {
        let name = format!("pages-{id}.img");
        assert_eq!(stored(dir.path(), &name), memory(id, pages));
        let entry = format!("{name}.zst");
        let entry = captured.files.iter().find(|file| file.name == entry);
        let entry = entry.expect("stored");
        let path = dir.path().join(&entry.name);
        assert_eq!(entry.size, fs::metadata(&path).expect("meta").len());
        Reader::open(&path, entry.hash()).expect("the entry's digest");
    }
}

#[test]
fn files_in_memory_are_stored_and_leave_no_links() {
    let dir = tempfile::tempdir().expect("tempdir");
    let files = Memory::make(dir.path(), 4).expect("files");
    let observer = Arc::new(|_| {});
    let files = Some(Arc::new(files));
    let capture =
        Capture::with(dir.path(), DIRECT, files, Default::default(), observer).expect("start");
    // One image more than links, and one link is never used.
    let raw: Vec<_> = [(1, 3000), (2, 0), (4, 1), (5, 300)]
        .map(|(id, pages)| (id, memory(id, pages)))
        .into();
    for (id, raw) in &raw {
        let path = dir.path().join(format!("pages-{id}.img"));
        fs::write(&path, raw).expect("write");
        assert_eq!(path.is_symlink(), *id < 5);
    }
    // The watcher sees its close before `finish`.
    until("stored", || dir.path().join("pages-4.img.zst").exists());
    let captured = capture.finish().expect("finish");
    assert_eq!(captured.files.len(), raw.len());
    for (id, raw) in &raw {
        assert_eq!(&stored(dir.path(), &format!("pages-{id}.img")), raw);
    }
    let left = fs::read_dir(dir.path()).expect("read");
    assert_eq!(left.count(), raw.len());
}

#[test]
fn empty_short_open_and_foreign_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let write = |name: &str, raw: &[u8]| fs::write(dir.path().join(name), raw).expect("write");
    // Complete before the start; empty; less than a frame; not a page image.
    write("pages-1.img", &memory(1, 3000));
    write("pages-2.img", b"");
    let capture = start(dir.path(), ZSTD);
    write("pages-3.img", &memory(3, 1));
    write("pages-x.img", b"no");
    write("core-1.img", b"no");
    for id in 4..60 {
        write(&format!("pages-{id}.img"), &memory(id, 10));
    }
    let open = File::create(dir.path().join("pages-60.img")).expect("create");
    let captured = capture.finish().expect("finish");
    drop(open);
    assert_eq!(captured.files.len(), 60);
    assert_eq!(stored(dir.path(), "pages-1.img"), memory(1, 3000));
    assert_eq!(stored(dir.path(), "pages-2.img"), b"");
    assert_eq!(stored(dir.path(), "pages-3.img"), memory(3, 1));
    for id in 4..60 {
        let name = format!("pages-{id}.img");
        assert_eq!(stored(dir.path(), &name), memory(id, 10));
        assert!(!dir.path().join(name).exists());
    }
    assert!(dir.path().join("pages-x.img").exists());
    assert!(!dir.path().join("pages-x.img.zst").exists());
}

#[test]
fn without_compression_files_stay_and_get_digests() {
    let dir = tempfile::tempdir().expect("tempdir");
    let raw = memory(1, 3000);
    fs::write(dir.path().join("pages-1.img"), &raw).expect("write");
    let captured = start(dir.path(), NONE).finish().expect("finish");
    let path = dir.path().join("pages-1.img");
    assert_eq!(fs::read(&path).expect("read"), raw);
    let [pages, table] = &captured.files[..] else {
        panic!("{captured:?}")
    };
    assert_eq!((pages.kind, table.kind), (Kind::Plain, Kind::Table));
    assert_eq!(pages.size, raw.len() as u64);
    let [file, table] = [&path, &dir.path().join(&table.name)].map(|path| Stored::open(path));
    let (file, table) = (file.expect("open"), table.expect("open"));
    Reader::plain(file, &table, pages.hash(), None).expect("the entry's digest");
}

#[test]
fn a_write_after_close_is_an_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pages-1.img");
    let capture = start(dir.path(), ZSTD);
    fs::write(&path, memory(1, 300)).expect("write");
    // Less than a piece: it is stored only because it was closed.
    until("stored", || dir.path().join("pages-1.img.zst").exists());
    let mut file = File::options().append(true).open(&path).expect("open");
    file.write_all(&[1; 4096]).expect("write");
    let error = capture.finish().expect_err("changed");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(path.exists());
}

#[test]
fn dropping_stops_the_capture() {
    let dir = tempfile::tempdir().expect("tempdir");
    let capture = start(dir.path(), ZSTD);
    let mut file = File::create(dir.path().join("pages-1.img")).expect("create");
    file.write_all(&memory(1, 20_000)).expect("write");
    drop(capture);
    drop(file);
    assert!(dir.path().join("pages-1.img").exists());
}

#[test]
fn a_missing_directory_and_an_existing_target_are_errors() {
    let gone = Path::new("/nonexistent");
    assert!(Capture::start(gone, ZSTD, Arc::new(|_| {})).is_err());
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("pages-1.img.zst"), b"mine").expect("write");
    fs::write(dir.path().join("pages-1.img"), memory(1, 3)).expect("write");
    let capture = start(dir.path(), ZSTD);
    let error = capture.finish().expect_err("the target exists").to_string();
    assert!(error.contains("pages-1.img.zst"), "{error}");
}

/// Uses a file system of two megabytes, in a mount namespace of the thread's own.
#[test]
fn a_full_disk_is_an_error_and_leaves_no_thread() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    std::thread::spawn(|| {
        let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
        });
        // Without root the file system can't be mounted.
        if private.is_err() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let size = Some("size=2m");
        mount(
            Some("none"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            size,
        )
        .expect("tmpfs");
        let path = dir.path().join("pages-1.img");
        let capture = start(dir.path(), ZSTD);
        // CRIU's file leaves too little room for the stored one.
        fs::write(dir.path().join("ghost"), vec![1; 700 << 10]).expect("write");
        fs::write(&path, memory(1, 300)).expect("write");
        let error = capture.finish().expect_err("full");
        assert!(error.is_full(), "{error}");
        for left in ["pages-1.img", "pages-1.img.zst"] {
            fs::remove_file(dir.path().join(left)).expect("remove");
        }
        // Here the disk's thread gets the error.
        let files = Some(Arc::new(Memory::make(dir.path(), 1).expect("files")));
        let capture = Capture::with(
            dir.path(),
            DIRECT,
            files,
            Default::default(),
            Arc::new(|_| {}),
        );
        fs::write(&path, memory(1, 9000)).expect("write");
        let error = capture.expect("start").finish().expect_err("full");
        assert!(error.is_full(), "{error}");
        nix::mount::umount(dir.path()).expect("umount");
    })
    .join()
    .expect("no panic");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_way_of_writing(
        writes in prop::collection::vec((0usize..3, 1usize..300, any::<bool>()), 1..16),
        memory_setting in prop_oneof![0u64..(16 << 20), Just(DIRECT.memory)],
        in_memory in any::<bool>(),
        compress in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("tempdir");
        let options = Options {
            compression: if compress { ZSTD.compression } else { Compression::None },
            memory: memory_setting,
            flush: compress,
            expected: None,
        };
        // Two files of three, if they are to be stored.
        let in_memory = (compress && in_memory)
            .then(|| Arc::new(Memory::make(dir.path(), 2).expect("files")));
        let capture = Capture::with(dir.path(), options, in_memory, Default::default(), Arc::new(|_| {}))
            .expect("start");
        let mut files: [Option<File>; 3] = [None, None, None];
        let mut closed = [false; 3];
        let mut raw = [const { Vec::new() }; 3];
        for (seed, (at, pages, close)) in writes.into_iter().enumerate() {
            if closed[at] {
                continue;
            }
            let path = dir.path().join(format!("pages-{at}.img"));
            let file = files[at].get_or_insert_with(|| File::create(path).expect("create"));
            let bytes = memory(seed as u64, pages);
            file.write_all(&bytes).expect("write");
            raw[at].extend(bytes);
            if close {
                closed[at] = true;
                files[at] = None;
            }
        }
        drop(files);
        let captured = capture.finish().expect("finish");
        let total: usize = raw.iter().map(Vec::len).sum();
        prop_assert_eq!(captured.raw_bytes, total as u64);
        for (at, raw) in raw.iter().enumerate().filter(|(_, raw)| !raw.is_empty()) {
            let name = format!("pages-{at}.img");
            if compress {
                prop_assert_eq!(&stored(dir.path(), &name), raw);
            } else {
                prop_assert_eq!(&fs::read(dir.path().join(&name)).expect("read"), raw);
            }
        }
    }
}
