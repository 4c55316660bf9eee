//! What a repair takes over from a catalogue that is damaged: the checkpoints of jobs, and
//! where checkpoints are. It is read until it can't be read any further.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rusqlite::{Row, params};

use super::Catalogue;
use crate::Error;

/// What can still be read.
#[derive(Debug, Default)]
pub(crate) struct Salvaged {
    jobs: Vec<JobRow>,
    /// Where checkpoints with memory in the store were written to.
    pub(crate) paths: Vec<PathBuf>,
}

/// A checkpoint of a job.
#[derive(Debug)]
struct JobRow {
    id: Option<String>,
    uid: u32,
    job: String,
    daemon: Option<Vec<u8>>,
    path: Vec<u8>,
    created: i64,
    microseconds: i64,
    remote: bool,
    bytes: i64,
}

impl Salvaged {
    /// Reads the catalogue of a store.
    pub(crate) fn of(store: &Path) -> Self {
        let mut salvaged = Self::default();
        let Ok(mut catalogue) = Catalogue::open_read_only(store) else {
            return salvaged;
        };
        let query = "SELECT id, uid, job, path, created, microseconds, remote, bytes, daemon
            FROM checkpoints NOT INDEXED";
        let Ok(mut statement) = catalogue.connection().prepare(query) else {
            return salvaged;
        };
        if let Ok(mut rows) = statement.query([]) {
            while let Ok(Some(row)) = rows.next() {
                // A row that can't be read is left out.
                let _ = salvaged.add(row);
            }
        }
        salvaged
    }

    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let id: Option<String> = row.get(0)?;
        let path: Vec<u8> = row.get(3)?;
        if id.is_some() {
            self.paths.push(OsString::from_vec(path.clone()).into());
        }
        if let Some(job) = row.get(2)? {
            self.jobs.push(JobRow {
                id,
                uid: row.get(1)?,
                job,
                path,
                created: row.get(4)?,
                microseconds: row.get(5)?,
                remote: row.get(6)?,
                bytes: row.get(7)?,
                daemon: row.get(8)?,
            });
        }
        Ok(())
    }
}

const ADOPT: &str = "UPDATE checkpoints SET uid = ?2, job = ?3, path = ?4, created = ?5,
    microseconds = ?6, remote = ?7, bytes = ?8, daemon = ?9 WHERE id = ?1";

const ADD: &str = "INSERT INTO checkpoints (uid, job, path, created, microseconds, remote,
    bytes, daemon, raw_bytes, boot, boot_time, subject, details)
    VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, '', 0, '{\"engine\":\"none\"}', '{}')";

impl Catalogue {
    /// Adds the checkpoints of jobs, and gives those that were found their jobs again.
    /// Returns their number.
    pub(crate) fn add_jobs(&mut self, salvaged: &Salvaged) -> Result<usize, Error> {
        self.transaction(|transaction| {
            let mut added = HashSet::new();
            for row in &salvaged.jobs {
                // A damaged index may show a row twice.
                if !added.insert((&row.daemon, row.uid, &row.job, &row.path)) {
                    continue;
                }
                let values = params![
                    row.id,
                    row.uid,
                    row.job,
                    row.path,
                    row.created,
                    row.microseconds,
                    row.remote,
                    row.bytes,
                    row.daemon
                ];
                let adopted = transaction.prepare_cached(ADOPT)?.execute(values)?;
                if adopted == 0 {
                    transaction.prepare_cached(ADD)?.execute(values)?;
                }
            }
            Ok(added.len())
        })
    }
}
