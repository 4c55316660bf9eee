//! The catalogue of checkpoints, which is that of the node's store, beside the database.
//!
//! ```text
//! cedana.db                    jobs
//! store.path/catalogue.db      checkpoints: those with a job are the daemon's
//!   attached as `catalogue`    others are written by cedana-runc and collected
//! ```
//!
//! Jobs run without it. While it is damaged, newer or can't be opened, an empty catalogue
//! in memory takes its place, and opening it is tried again from time to time. The records
//! in the jobs' directories bring what was added meanwhile to the catalogue later. A
//! repair replaces the file; then the new one is attached.
//!
//! A daemon with another state directory has jobs of its own, and sees only their
//! checkpoints: through the view `checkpoints_of_jobs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cedana_store::catalogue::FILE;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use super::migrations;

/// How long a catalogue that can't be used is left alone: `ps --watch` asks five times a
/// second.
const RETRY: Duration = Duration::from_secs(10);

/// The columns that queries of this crate use, in memory.
const IN_MEMORY: &str = "
    ATTACH ':memory:' AS catalogue;
    CREATE TABLE catalogue.checkpoints (
        number INTEGER PRIMARY KEY,
        id TEXT,
        uid INTEGER NOT NULL,
        job TEXT,
        daemon BLOB,
        path BLOB NOT NULL,
        created INTEGER NOT NULL,
        microseconds INTEGER NOT NULL DEFAULT 0,
        boot TEXT NOT NULL,
        boot_time INTEGER NOT NULL,
        remote INTEGER NOT NULL DEFAULT 0,
        raw_bytes INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        subject TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
    CREATE TABLE catalogue.tags (checkpoint INTEGER) STRICT;
    CREATE TABLE catalogue.pins (checkpoint INTEGER) STRICT;
    CREATE UNIQUE INDEX catalogue.checkpoint_of_job ON checkpoints (daemon, uid, job, path);
";

/// What is attached.
#[derive(Debug)]
pub(super) struct Attached {
    /// The store.
    store: PathBuf,
    /// The daemon's state directory.
    daemon: Vec<u8>,
    state: State,
    /// The last failure, which is logged once.
    failure: Option<String>,
}

#[derive(Debug)]
enum State {
    Nothing,
    /// The catalogue's file, by device and inode.
    File(u64, u64),
    /// An empty one in memory, since then.
    Memory(Instant),
}

impl Attached {
    /// Attaches the catalogue of this store, for the daemon with this state directory.
    pub(super) fn new(
        connection: &mut Connection,
        store: &Path,
        state_dir: &Path,
    ) -> rusqlite::Result<Self> {
        let daemon = state_dir.canonicalize();
        let daemon = daemon.unwrap_or_else(|_| state_dir.to_owned());
        let mut attached = Self {
            store: store.to_owned(),
            daemon: daemon.into_os_string().into_encoded_bytes(),
            state: State::Nothing,
            failure: None,
        };
        attached.refresh(connection)?;
        Ok(attached)
    }

    /// Attaches it again if it was replaced, or could not be used before.
    pub(super) fn refresh(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        match self.state {
            State::File(device, inode) if self.identity() == Some((device, inode)) => return Ok(()),
            State::Memory(since) if since.elapsed() < RETRY => return Ok(()),
            _ => {}
        }
        match self.attach(connection) {
            Ok(()) => {
                if self.failure.take().is_some() {
                    log::info!("the catalogue of checkpoints can be used again");
                }
                Ok(())
            }
            Err(failure) => self.do_without(connection, failure),
        }
    }

    /// Takes an empty catalogue in memory if this error is the catalogue's. Returns whether
    /// it was.
    pub(super) fn give_up(
        &mut self,
        connection: &mut Connection,
        error: &rusqlite::Error,
    ) -> rusqlite::Result<bool> {
        let is_of_file = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::DiskFull
                    | ErrorCode::Unknown
            )
        );
        if !is_of_file || !matches!(self.state, State::File(..)) {
            return Ok(false);
        }
        let path = self.store.join(FILE);
        let why = format!(
            "the store's catalogue {} cannot be used: {error}; run cedana store check",
            path.display()
        );
        self.do_without(connection, why)?;
        Ok(true)
    }

    /// Whether it can't be used.
    pub(super) fn is_missing(&self) -> bool {
        !matches!(self.state, State::File(..))
    }

    fn attach(&mut self, connection: &mut Connection) -> Result<(), String> {
        let text = |error: cedana_store::Error| error.to_string();
        // Checked, and brought to the present version, before it is changed.
        let store = cedana_store::Store::create(&self.store).map_err(text)?;
        let opened = store.catalogue().map_err(text)?;
        let path = opened.path().to_owned();
        let identity = self.identity().ok_or("it was removed meanwhile")?;
        let mut attach = || -> rusqlite::Result<()> {
            self.detach(connection)?;
            let file = path.as_os_str().as_encoded_bytes();
            // A path need not be UTF-8.
            connection.execute("ATTACH CAST(?1 AS TEXT) AS catalogue", [file])?;
            self.state = State::File(identity.0, identity.1);
            self.make_view(connection)?;
            // A checkpoint is announced after it was added.
            connection.pragma_update(Some("catalogue"), "synchronous", "FULL")?;
            connection.pragma_update(Some("catalogue"), "cache_size", -512)?;
            move_old(connection, &self.daemon)
        };
        attach().map_err(|error| {
            format!(
                "the store's catalogue {} cannot be used: {error}",
                path.display()
            )
        })
    }

    fn do_without(&mut self, connection: &Connection, failure: String) -> rusqlite::Result<()> {
        if self.failure.as_ref() != Some(&failure) {
            log::warn!(
                "the checkpoints of jobs are not listed, but can be restored by their paths: {failure}"
            );
            self.failure = Some(failure);
        }
        if !matches!(self.state, State::Memory(_)) {
            self.detach(connection)?;
            connection.execute_batch(IN_MEMORY)?;
            self.make_view(connection)?;
        }
        self.state = State::Memory(Instant::now());
        Ok(())
    }

    /// The daemon's state directory, by which its rows are known.
    pub(super) fn daemon(&self) -> &[u8] {
        &self.daemon
    }

    /// A view can't have parameters.
    fn make_view(&self, connection: &Connection) -> rusqlite::Result<()> {
        let daemon: String = self
            .daemon
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        connection.execute_batch(&format!(
            "DROP VIEW IF EXISTS temp.checkpoints_of_jobs;
             CREATE TEMP VIEW checkpoints_of_jobs AS
                 SELECT number, uid, job, path, created * 1000000 + microseconds AS created,
                     remote, bytes
                 FROM catalogue.checkpoints WHERE job IS NOT NULL AND daemon = x'{daemon}'"
        ))
    }

    fn detach(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if !matches!(self.state, State::Nothing) {
            connection.execute("DETACH catalogue", [])?;
            self.state = State::Nothing;
        }
        Ok(())
    }

    fn identity(&self) -> Option<(u64, u64)> {
        let file = fs::metadata(self.store.join(FILE)).ok()?;
        Some((file.dev(), file.ino()))
    }
}

/// Moves the checkpoints that older versions had in the database. They are removed there
/// after they were copied; a daemon that is killed between copies them again, which changes
/// nothing.
fn move_old(connection: &mut Connection, daemon: &[u8]) -> rusqlite::Result<()> {
    if !migrations::has_checkpoints(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut old = transaction.prepare(
            "SELECT uid, job, path, created, bytes, remote FROM main.checkpoints ORDER BY number",
        )?;
        let mut rows = old.query([])?;
        while let Some(row) = rows.next()? {
            let job: String = row.get(1)?;
            let path: Vec<u8> = row.get(2)?;
            let checkpoint = New {
                daemon,
                uid: row.get(0)?,
                job: &job,
                path: &path,
                created: row.get(3)?,
                bytes: row.get(4)?,
                remote: row.get(5)?,
            };
            checkpoint.add(&transaction)?;
        }
    }
    transaction.commit()?;
    migrations::drop_checkpoints(connection)
}

/// A checkpoint of a job.
pub(super) struct New<'a> {
    pub(super) daemon: &'a [u8],
    pub(super) uid: u32,
    pub(super) job: &'a str,
    pub(super) path: &'a [u8],
    /// Microseconds since 1970.
    pub(super) created: i64,
    pub(super) bytes: i64,
    pub(super) remote: bool,
}

impl New<'_> {
    /// Adds it, unless it is there. The row of a checkpoint whose memory is in the store was
    /// written with its chunks: it becomes the job's.
    pub(super) fn add(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (seconds, rest) = (
            self.created.div_euclid(1_000_000),
            self.created.rem_euclid(1_000_000),
        );
        let known = connection
            .prepare_cached(
                "SELECT 1 FROM catalogue.checkpoints
                 WHERE daemon = ?4 AND uid = ?1 AND job = ?2 AND path = ?3",
            )?
            .exists(params![self.uid, self.job, self.path, self.daemon])?;
        if known {
            return Ok(());
        }
        let adopted = connection
            .prepare_cached(
                "UPDATE catalogue.checkpoints
                 SET uid = ?1, job = ?2, created = ?4, microseconds = ?5, bytes = ?6,
                     daemon = ?7
                 WHERE number = (SELECT max(number) FROM catalogue.checkpoints
                     WHERE job IS NULL AND id IS NOT NULL AND path = ?3)",
            )?
            .execute(params![
                self.uid,
                self.job,
                self.path,
                seconds,
                rest,
                self.bytes,
                self.daemon
            ])?;
        if adopted > 0 {
            return Ok(());
        }
        connection
            .prepare_cached(
                "INSERT INTO catalogue.checkpoints (uid, job, path, created, microseconds, boot,
                     boot_time, remote, raw_bytes, bytes, daemon, subject, details)
                 VALUES (?1, ?2, ?3, ?4, ?5, '', 0, ?7, 0, ?6, ?8, '{\"engine\":\"none\"}', '{}')
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                self.uid,
                self.job,
                self.path,
                seconds,
                rest,
                self.bytes,
                self.remote,
                self.daemon
            ])?;
        Ok(())
    }
}

/// Removes a checkpoint of a job. One that is pinned or tagged is no job's from then on.
pub(super) fn remove(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    for query in [
        "DELETE FROM catalogue.checkpoints WHERE number = ?1 AND job IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM catalogue.tags WHERE checkpoint = number)
             AND NOT EXISTS (SELECT 1 FROM catalogue.pins WHERE checkpoint = number)",
        "UPDATE catalogue.checkpoints SET uid = 0, job = NULL, daemon = NULL
             WHERE number = ?1 AND job IS NOT NULL",
    ] {
        connection.execute(query, [number])?;
    }
    Ok(())
}

/// Removes what is known of a job's checkpoints. Memory that is in the store stays as long
/// as the archive does, which may be in a directory of the owner's.
pub(super) fn release(
    connection: &Connection,
    daemon: &[u8],
    uid: u32,
    job: &str,
) -> rusqlite::Result<()> {
    for query in [
        "UPDATE catalogue.checkpoints SET uid = 0, job = NULL, daemon = NULL
             WHERE daemon = ?1 AND uid = ?2 AND job = ?3 AND id IS NOT NULL",
        "DELETE FROM catalogue.checkpoints WHERE daemon = ?1 AND uid = ?2 AND job = ?3",
    ] {
        connection
            .prepare_cached(query)?
            .execute(params![daemon, uid, job])?;
    }
    Ok(())
}
