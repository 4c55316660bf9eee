//! Stores for tests.

use std::fs;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::catalogue::{Catalogue, CheckpointId, NewCheckpoint};
use crate::chunk::{Cutter, PAGE};
use crate::list::List;
use crate::memory::Memory;
use crate::pack::Decoder;
use crate::session::{Options, Session, Worker};
use crate::{Error, Store};

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
}

/// A checkpoint that was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) id: CheckpointId,
    pub(crate) list: List,
    pub(crate) raw: Vec<u8>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::create(&dir.path().join("store")).expect("a store");
        Self { dir, store }
    }

    pub(crate) fn catalogue(&self) -> Catalogue {
        self.store.catalogue().expect("a catalogue")
    }

    /// A session that has stored some memory.
    pub(crate) fn begin(&self, raw: &[u8]) -> (Arc<Session>, List) {
        let options = Options {
            level: 1,
            page_size: PAGE as u32,
            quota: None,
        };
        let open = |file, _: &std::path::Path| Ok(Box::new(BufWriter::new(file)) as _);
        let session = Session::begin(&self.store, options, Box::new(open)).expect("a session");
        let session = Arc::new(session);
        let mut worker = Worker::new(&session).expect("a worker");
        let cuts = Cutter::new(PAGE).cut(raw, true);
        let parts = worker.store(raw, &cuts).expect("stored");
        drop(worker);
        session.seal().expect("sealed");
        let list = session.list(&parts);
        (session, list)
    }

    /// Writes a checkpoint.
    pub(crate) fn write(&self, name: &str, raw: &[u8]) -> Written {
        let (session, list) = self.begin(raw);
        let id = CheckpointId::random().expect("an ID");
        session
            .publish(&self.checkpoint(&id, name, raw))
            .expect("published");
        Written {
            id,
            list,
            raw: raw.to_vec(),
        }
    }

    pub(crate) fn checkpoint(&self, id: &CheckpointId, name: &str, raw: &[u8]) -> NewCheckpoint {
        NewCheckpoint {
            id: id.clone(),
            name: Some(name.to_owned()),
            path: self.dir.path().join(name),
            raw_bytes: raw.len() as u64,
            bytes: 0,
            subject: serde_json::json!({"engine": "none"}),
            details: serde_json::json!({}),
        }
    }

    /// Reads a checkpoint's memory.
    pub(crate) fn read(&self, list: &List) -> Result<Vec<u8>, Error> {
        let memory = Memory::open(&self.store, list)?;
        let mut raw = Vec::new();
        let mut decoder = Decoder::default();
        for window in 0..memory.windows() {
            let range = memory.range(window);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let decoded = memory.decode(window, &mut decoder, &mut bytes);
            decoded.unwrap_or_else(|fault| panic!("{fault}"));
            raw.extend(bytes);
        }
        Ok(raw)
    }

    /// The paths of the packs in their place.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        self.files("packs")
    }

    pub(crate) fn files(&self, dir: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store.path().join(dir)).expect("listed");
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
    }

    /// Makes a checkpoint old, as if it was written and last seen so many seconds ago.
    pub(crate) fn age(&self, id: &CheckpointId, seconds: i64) {
        let mut catalogue = self.catalogue();
        let query = "UPDATE checkpoints SET created = created - ?2, boot_time = boot_time - ?2,
            seen = seen - ?2, seen_boot_time = seen_boot_time - ?2 WHERE id = ?1";
        let rows = catalogue
            .connection()
            .execute(query, rusqlite::params![id.as_str(), seconds]);
        assert_eq!(rows, Ok(1));
    }
}

/// Pages of noise, one for each seed; zeros for seed 0.
pub(crate) fn memory(seeds: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seed in seeds {
        let mut word = u64::from(seed);
        for _ in 0..PAGE / 8 {
            if seed != 0 {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            }
            bytes.extend((word ^ (word >> 29)).to_le_bytes());
        }
    }
    bytes
}
