use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cedana_store::catalogue::{CheckpointId, NewCheckpoint};
use cedana_store::chunk::{Cutter, PAGE};
use cedana_store::pack::FileSink;
use cedana_store::session::{Options, Session, Worker};
use proptest::prelude::*;

use super::super::Decoder;
use super::*;

/// Memory in a store of its own, and its list.
pub(crate) struct InStore {
    root: tempfile::TempDir,
    pub(crate) memory: Vec<u8>,
    pub(crate) list: Vec<u8>,
    pub(crate) id: CheckpointId,
}

impl InStore {
    /// Stores memory with a run of zeros that has more than one window, and with chunks that
    /// are patches on others.
    pub(crate) fn new() -> Self {
        let mut first = noise(700);
        let mut memory = first.clone();
        memory.resize(memory.len() + 300 * PAGE, 0);
        for page in first.chunks_exact_mut(PAGE).step_by(50) {
            page[7] ^= 1;
        }
        memory.extend(first);
        memory.extend(noise(1));
        Self::of(memory)
    }

    pub(crate) fn of(memory: Vec<u8>) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let id = CheckpointId::random().expect("an ID");
        let store = Store::create(&root.path().join("store")).expect("create");
        // The second checkpoint finds similar chunks in the first.
        let half = memory.len() / 2 / PAGE * PAGE;
        publish(
            &store,
            &memory[..half],
            CheckpointId::random().expect("an ID"),
        );
        let list = publish(&store, &memory, id.clone()).render();
        Self {
            root,
            memory,
            list,
            id,
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.store().join("packs")).expect("packs");
        packs.map(|pack| pack.expect("a pack").path()).collect()
    }

    /// Opens the list as `pages-1.img.chunks` in a directory.
    pub(crate) fn reader(&self, dir: &Path) -> Result<Reader, Damage> {
        let path = dir.join("pages-1.img.chunks");
        fs::write(&path, &self.list).expect("write");
        let (size, digest) = (self.list.len() as u64, blake3::hash(&self.list));
        ChunkStore::new(&self.store()).open(Stored::open(&path)?, size, Some(digest))
    }
}

fn publish(store: &Store, memory: &[u8], id: CheckpointId) -> List {
    let options = Options {
        level: 1,
        page_size: PAGE as u32,
        quota: None,
    };
    let session = Session::begin(store, options, Box::new(FileSink::open));
    let session = Arc::new(session.expect("begin"));
    let cuts = Cutter::new(PAGE).cut(memory, true);
    let mut worker = Worker::new(&session).expect("a worker");
    let parts = worker.store(memory, &cuts).expect("store");
    session.seal().expect("seal");
    let list = session.list(&parts);
    let checkpoint = NewCheckpoint {
        id,
        name: None,
        path: "/checkpoint".into(),
        raw_bytes: memory.len() as u64,
        bytes: 0,
        subject: serde_json::json!({}),
        details: serde_json::json!({}),
    };
    session.publish(&checkpoint).expect("publish");
    list
}

/// Pages that compress to a half.
fn noise(pages: usize) -> Vec<u8> {
    let mut bytes = vec![1; pages * PAGE];
    let mut word = 0x9E37_79B9_7F4A_7C15u64;
    for page in bytes.chunks_exact_mut(PAGE) {
        for place in page[..PAGE / 2].as_chunks_mut::<8>().0 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            *place = word.to_le_bytes();
        }
    }
    bytes
}

#[test]
fn windows_cover_the_memory() {
    let (dir, stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
    let reader = stored.reader(dir.path()).expect("open");
    assert_eq!(reader.raw_bytes(), stored.memory.len() as u64);
    assert!(reader.stored_bytes() < reader.raw_bytes());
    assert!(reader.is_aligned(4096) && !reader.is_aligned(8192));
    let (mut decoder, mut raw, mut end, mut zeros) = (Decoder::default(), Vec::new(), 0, 0);
    for frame in 0..reader.frames() {
        let range = reader.range(frame);
        assert_eq!(range.start, end);
        end = range.end;
        assert_eq!(reader.frame_at(range.start), frame);
        assert_eq!(reader.frame_at(range.end - 1), frame);
        reader
            .decode(frame, &mut decoder, &mut raw)
            .expect("decode");
        let expected = &stored.memory[range.start as usize..range.end as usize];
        assert!(raw == expected, "{range:?}");
        if reader.is_zeros(frame) {
            assert!(raw.iter().all(|byte| *byte == 0));
            zeros += 1;
        }
    }
    assert_eq!(end, reader.raw_bytes());
    assert!(zeros > 1, "300 pages of zeros");
    assert!(reader.range(reader.frames()).is_empty());
}

#[test]
fn lists_share_their_packs() {
    let (dir, stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
    let mut store = ChunkStore::new(&stored.store());
    let path = dir.path().join("pages-1.img.chunks");
    fs::write(&path, &stored.list).expect("write");
    let mut open = || {
        let list = Stored::open(&path).expect("open");
        store.open(list, stored.list.len() as u64, None)
    };
    let descriptors = || {
        let open = fs::read_dir("/proc/self/fd").expect("descriptors");
        let targets = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets
            .filter(|target| target.starts_with(stored.root.path().join("store/packs")))
            .count()
    };
    let _first = open().expect("open");
    let packs = descriptors();
    let _second = open().expect("open");
    assert_eq!(descriptors(), packs);
}

#[test]
fn what_is_missing_is_found_when_the_list_is_opened() {
    let dir = tempfile::tempdir().expect("tempdir");
    let failed = |stored: &InStore| {
        let error = stored.reader(dir.path()).expect_err("missing");
        (error.to_string(), error)
    };
    // No catalogue either, as in the store of another node.
    let stored = InStore::new();
    for pack in stored.packs() {
        fs::remove_file(pack).expect("remove");
    }
    for _ in 0..2 {
        let (text, error) = failed(&stored);
        assert!(matches!(error, Damage::Store { .. }));
        for part in ["pages-1.img.chunks", "is not in the store", "from byte 0"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            text.contains(&stored.store().display().to_string()),
            "{text}"
        );
        let _ = fs::remove_file(stored.store().join("catalogue.db"));
    }
    let stored = InStore::new();
    let pack = OpenOptions::new().write(true).open(&stored.packs()[0]);
    pack.expect("open").set_len(1000).expect("cut");
    assert!(failed(&stored).0.contains("is not in the store"));
    fs::remove_dir_all(stored.store()).expect("remove");
    let (text, error) = failed(&stored);
    assert!(matches!(error, Damage::NoStore { .. }));
    assert!(
        text.contains("which does not exist") && text.contains("export"),
        "{text}"
    );
}

#[test]
fn another_list_and_none_are_refused() {
    let (dir, mut stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
    let path = dir.path().join("pages-1.img.chunks");
    stored.reader(dir.path()).expect("the list");
    let mut store = ChunkStore::new(&stored.store());
    let size = stored.list.len() as u64;
    for (size, digest) in [
        (size - 1, None),
        (size + 1, None),
        (size, Some(blake3::hash(b"another"))),
    ] {
        let list = Stored::open(&path).expect("open");
        let error = store.open(list, size, digest).expect_err("another");
        assert!(matches!(error, Damage::Foreign { .. }), "{error}");
    }
    stored.list[0] ^= 1;
    let error = stored.reader(dir.path()).expect_err("none");
    assert!(matches!(error, Damage::List { .. }), "{error}");
}

#[test]
fn every_part_of_a_damaged_pack_is_named() {
    let (dir, stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
    let reader = stored.reader(dir.path()).expect("open");
    let packs = stored.packs();
    let length = |pack: &PathBuf| pack.metadata().expect("metadata").len();
    let pack = packs
        .iter()
        .max_by_key(|pack| length(pack))
        .expect("a pack");
    let file = OpenOptions::new().write(true).read(true).open(pack);
    let file = file.expect("open");
    let mut decoder = Decoder::default();
    let mut found = 0;
    for at in (0..length(pack)).step_by(100_000) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("write");
        let mut out = vec![0; stored.memory.len()];
        match reader.read_at(0, &mut decoder, &mut out) {
            Err(Damage::Chunk {
                start, end, source, ..
            }) => {
                assert!(start < end && end <= reader.raw_bytes());
                let id = pack.file_stem().expect("an ID").to_string_lossy();
                assert!(source.to_string().contains(&*id), "{source}");
                found += 1;
            }
            // Of the pack's index, or of a chunk that another memory has.
            Ok(_) => assert!(out == stored.memory),
            Err(error) => panic!("{error}"),
        }
        file.write_all_at(&byte, at).expect("write");
    }
    assert!(found > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_part_is_read(at in 0usize..1800 * PAGE, length in 0usize..2 << 20) {
        use std::sync::OnceLock;
        static STORED: OnceLock<(InStore, Reader)> = OnceLock::new();
        let (stored, reader) = STORED.get_or_init(|| {
            let (dir, stored) = (tempfile::tempdir().expect("tempdir"), InStore::new());
            let reader = stored.reader(dir.path()).expect("open");
            (stored, reader)
        });
        let mut out = vec![0; length];
        let got = reader.read_at(at as u64, &mut Decoder::default(), &mut out).expect("read");
        let start = at.min(stored.memory.len());
        let end = (start + length).min(stored.memory.len());
        prop_assert!(out[..got] == stored.memory[start..end]);
    }
}
