use std::fs;
use std::sync::Arc;

use super::*;
use crate::chunk::{Cutter, PAGE};
use crate::memory::Memory;
use crate::pack::{Decoder, FileSink};
use proptest::prelude::*;

fn options() -> Options {
    Options {
        level: 1,
        page_size: PAGE as u32,
        quota: None,
    }
}

fn begin(store: &Store, options: Options) -> Result<Arc<Session>, Error> {
    Session::begin(store, options, Box::new(FileSink::open)).map(Arc::new)
}

/// Pages of noise, a half of which compresses; zeros where the seed is 0.
fn memory(seeds: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; seeds.len() * PAGE];
    for (page, &seed) in bytes.chunks_exact_mut(PAGE).zip(seeds) {
        let mut word = seed;
        for place in page[..PAGE / 2].chunks_exact_mut(8) {
            if seed != 0 {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                place.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes());
            }
        }
    }
    bytes
}

fn parts(session: &Arc<Session>, bytes: &[u8]) -> Result<Vec<Part>, Error> {
    let cuts = Cutter::new(PAGE).cut(bytes, true);
    Worker::new(session)?.store(bytes, &cuts)
}

fn checkpoint() -> NewCheckpoint {
    NewCheckpoint {
        id: CheckpointId::random().expect("an ID"),
        name: Some("redis".to_owned()),
        path: "/checkpoints/redis".into(),
        raw_bytes: 0,
        bytes: 0,
        subject: serde_json::json!({}),
        details: serde_json::json!({}),
    }
}

/// Stores memory as a checkpoint, and returns its list and what it added.
fn stored(store: &Store, bytes: &[u8]) -> (List, Added) {
    let session = begin(store, options()).expect("begin");
    let parts = parts(&session, bytes).expect("store");
    let added = session.seal().expect("seal");
    let list = session.list(&parts);
    session.publish(&checkpoint()).expect("publish");
    (list, added)
}

fn read(store: &Store, list: &List) -> Vec<u8> {
    let memory = Memory::open(store, list).expect("open");
    let mut decoder = Decoder::default();
    let mut bytes = Vec::new();
    for window in 0..memory.windows() {
        let range = memory.range(window);
        let mut out = vec![1; (range.end - range.start) as usize];
        memory
            .decode(window, &mut decoder, &mut out)
            .expect("decode");
        assert_eq!(memory.window_at(range.start), window);
        assert_eq!(memory.window_at(range.end - 1), window);
        bytes.extend(out);
    }
    bytes
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(&dir.path().join("store")).expect("a store");
    (dir, store)
}

/// Distinct pages, with a run of zeros.
fn seeds(pages: u64) -> Vec<u64> {
    let seed = |page| {
        if (100..200).contains(&page) {
            0
        } else {
            page + 1
        }
    };
    (0..pages).map(seed).collect()
}

#[test]
fn what_is_stored_is_read_and_stored_once() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(2000));
    let (list, first) = stored(&store, &bytes);
    assert!(read(&store, &list) == bytes);
    assert_eq!(List::parse(&list.render()).as_ref(), Ok(&list));
    assert!(first.bytes > (bytes.len() / 3) as u64, "{first:?}");
    let (again, second) = stored(&store, &bytes);
    assert_eq!((second.chunks, second.bytes), (0, 0));
    assert!(read(&store, &again) == bytes);
    assert_eq!(fs::read_dir(store.incoming()).expect("list").count(), 0);
}

#[test]
fn scattered_changes_cost_what_has_changed() {
    let (_dir, store) = store();
    let mut seeds = seeds(6000);
    let (_, first) = stored(&store, &memory(&seeds));
    for page in (0..6000).step_by(20) {
        seeds[page] = 1_000_000 + page as u64;
    }
    let changed = memory(&seeds);
    let (list, second) = stored(&store, &changed);
    assert!(list.chunks.iter().any(|chunk| chunk.base.is_some()));
    assert!(second.bytes * 100 < first.bytes * 8, "{first:?} {second:?}");
    assert!(read(&store, &list) == changed);
    // And once more: a patch is no base.
    for page in (7..6000).step_by(20) {
        seeds[page] = 2_000_000 + page as u64;
    }
    let changed = memory(&seeds);
    let (list, third) = stored(&store, &changed);
    assert!(third.bytes * 100 < first.bytes * 16, "{first:?} {third:?}");
    assert!(read(&store, &list) == changed);
}

#[test]
fn workers_of_one_session_store_each_chunk_once() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(1000));
    let session = begin(&store, options()).expect("begin");
    let all: Vec<Vec<Part>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| parts(&session, &bytes).expect("store")))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    session.seal().expect("seal");
    let lists: Vec<List> = all.iter().map(|parts| session.list(parts)).collect();
    session.publish(&checkpoint()).expect("publish");
    assert_eq!(lists[0].runs.len(), lists[3].runs.len());
    for list in &lists {
        assert!(read(&store, list) == bytes);
    }
    let used = store.catalogue().expect("open").used_bytes().expect("sum");
    assert!(used < bytes.len() as u64);
}

#[test]
fn two_sessions_may_store_the_same_at_once() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(1000));
    let sessions = [0, 1].map(|_| begin(&store, options()).expect("begin"));
    let stored = sessions.each_ref().map(|session| {
        let parts = parts(session, &bytes).expect("store");
        session.seal().expect("seal");
        session.list(&parts)
    });
    for (session, list) in sessions.iter().zip(&stored) {
        session.publish(&checkpoint()).expect("publish");
        assert!(read(&store, list) == bytes);
    }
    // Without the second pack the chunks are found in the first.
    drop(sessions);
    for pack in &stored[1].packs {
        store.place().delete(&pack.file_name()).expect("delete");
    }
    assert!(read(&store, &stored[1]) == bytes);
    for pack in &stored[0].packs {
        store.place().delete(&pack.file_name()).expect("delete");
    }
    let missing = Memory::open(&store, &stored[0]).expect_err("missing");
    assert!(
        missing.to_string().contains("is not in the store"),
        "{missing}"
    );
}

#[test]
fn an_abandoned_session_leaves_nothing() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(500));
    let session = begin(&store, options()).expect("begin");
    parts(&session, &bytes).expect("store");
    assert_eq!(fs::read_dir(store.incoming()).expect("list").count(), 1);
    drop(session);
    assert_eq!(fs::read_dir(store.incoming()).expect("list").count(), 0);
    assert_eq!(store.place().list().expect("list"), []);
}

#[test]
fn the_quota_is_kept() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(1000));
    let quota = Options {
        quota: Some(500_000),
        ..options()
    };
    let session = begin(&store, quota).expect("begin");
    let full = parts(&session, &bytes).expect_err("the quota");
    assert!(full.to_string().contains("store.quota"), "{full}");
    drop(session);
    stored(&store, &bytes);
    let full = begin(&store, quota).expect_err("the quota");
    assert!(full.to_string().contains("cedana store gc"), "{full}");
}

#[test]
fn damage_is_found_before_a_byte_is_returned() {
    let (_dir, store) = store();
    let bytes = memory(&seeds(300));
    let (list, _) = stored(&store, &bytes);
    let path = store.path().join("packs").join(list.packs[0].file_name());
    let mut pack = fs::read(&path).expect("read");
    pack[1000] ^= 1;
    fs::write(&path, &pack).expect("write");
    let memory = Memory::open(&store, &list).expect("open");
    let mut out = vec![0; (memory.range(0).end) as usize];
    let fault = memory
        .decode(0, &mut Decoder::default(), &mut out)
        .expect_err("damage");
    assert!(fault.to_string().contains("is damaged"), "{fault}");
    fs::write(&path, &pack[..2000]).expect("cut");
    Memory::open(&store, &list).expect_err("too short");
}

#[test]
fn a_store_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, store) = store();
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o770)).expect("chmod");
    let insecure = Store::open(store.path()).expect_err("insecure");
    assert!(insecure.to_string().contains("chmod 0700"), "{insecure}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_memory_is_read_as_it_was(histories in prop::collection::vec(
        prop::collection::vec((0u64..4, 1usize..90), 1..8), 1..4,
    )) {
        let (_dir, store) = store();
        for history in histories {
            let mut seeds = Vec::new();
            for (kind, length) in history {
                for page in 0..length as u64 {
                    // Few different pages, so that chunks share some.
                    seeds.push(if kind == 0 { 0 } else { kind * 100 + page % (7 * kind) });
                }
            }
            let bytes = memory(&seeds);
            let (list, _) = stored(&store, &bytes);
            prop_assert!(read(&store, &list) == bytes);
        }
    }
}
