//! The database `cedana.db`: all jobs. Their checkpoints are in the catalogue of the node's
//! store ([`catalogue`]).
//!
//! ```text
//! supervisors ── state ──► jobs ──► store ─┬► cedana.db (SQLite, write-ahead log)
//!                                          └► store.path/catalogue.db
//! ```
//!
//! It is a catalogue. The jobs' own files say what a job is made of and how it ended, so
//! a daemon that is killed between two writes finds the truth there at its next start.
//! A lock beside the database keeps a second daemon away. Queries take less than a
//! millisecond but for the list of all jobs; callers run them off the event loop.

mod catalogue;
mod error;
mod migrations;
mod row;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Params, Statement, params};

use catalogue::Attached;
use error::OpenError;
pub use error::StoreError;
pub use row::{CheckpointRow, Checkpoints, Container, JobKey, JobKind, JobRow, JobState};

const FILE: &str = "cedana.db";

const SELECT: &str = "
    SELECT jobs.uid, jobs.id, state, since, jobs.created, pid, supervisor, exit_code, exit_signal,
           restarts, restart_policy, command, working_directory, terminal, log_file,
           kind, newest, local, remote, bytes
    FROM jobs LEFT JOIN (
        SELECT uid AS owner, job, max(created) AS newest,
               count(*) - sum(remote) AS local, sum(remote) AS remote,
               sum(iif(remote, 0, bytes)) AS bytes
        FROM checkpoints_of_jobs GROUP BY uid, job
    ) ON owner = jobs.uid AND job = jobs.id";

/// The open database.
#[derive(Debug)]
pub struct Store {
    open: Mutex<Open>,
    path: PathBuf,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    catalogue: Attached,
}

impl Store {
    /// Opens or creates the database in a directory, and the catalogue of a store. Without
    /// the latter it works, too.
    ///
    /// # Errors
    /// The database is damaged or newer, or the system's error. It is left unchanged then.
    pub fn open(directory: &Path, store: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let open = || {
            let mut connection = connect(&path)?;
            let catalogue = Attached::new(&mut connection, store, directory)?;
            Ok(Open {
                connection,
                catalogue,
            })
        };
        match open() {
            Ok(open) => Ok(Self {
                open: Mutex::new(open),
                path,
            }),
            Err(error) => Err(OpenError::at(error, path)),
        }
    }

    /// The database's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a job, which has no checkpoints: those of an earlier one of that ID may be in the
    /// catalogue if the database was moved away.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if its owner has a job of that ID.
    pub fn insert(&self, job: &JobRow) -> Result<(), StoreError> {
        let columns = job.state.columns();
        let inserted = self.with(|connection| {
            connection.execute(
                "INSERT OR IGNORE INTO jobs (uid, id, state, since, created, pid, supervisor,
                     exit_code, exit_signal, restarts, restart_policy, command,
                     working_directory, terminal, log_file, kind)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
                params![
                    job.key.uid,
                    &*job.key.id,
                    columns.state,
                    job.since,
                    job.created,
                    columns.pid,
                    columns.supervisor,
                    columns.code,
                    columns.signal,
                    job.restarts,
                    row::policy_name(job.restart_policy),
                    job.command,
                    job.working_directory.0,
                    job.terminal,
                    job.log_file.as_ref().map(|file| &file.0),
                    serde_json::to_string(&job.kind).unwrap_or_default(),
                ],
            )
        })?;
        if inserted == 0 {
            return Err(StoreError::Exists);
        }
        let key = &job.key;
        let released = self.with_catalogue(|connection, daemon| {
            catalogue::release(connection, daemon, key.uid, &key.id)
        });
        if let Err(error) = released {
            // The job runs all the same.
            log::warn!("the catalogue of checkpoints cannot be changed: {error}");
        }
        Ok(())
    }

    /// Sets a job's state. Returns false if there is no such job.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_state(
        &self,
        key: &JobKey,
        state: JobState,
        since: i64,
        restarts: u32,
    ) -> Result<bool, StoreError> {
        let columns = state.columns();
        let changed = self.with(|connection| {
            connection.execute(
                "UPDATE jobs SET state = ?3, since = ?4, pid = ?5, supervisor = ?6,
                     exit_code = ?7, exit_signal = ?8, restarts = ?9
                 WHERE uid = ?1 AND id = ?2",
                params![
                    key.uid,
                    &*key.id,
                    columns.state,
                    since,
                    columns.pid,
                    columns.supervisor,
                    columns.code,
                    columns.signal,
                    restarts,
                ],
            )
        })?;
        Ok(changed > 0)
    }

    /// Removes a job and what is known of its checkpoints. These first: a daemon that is
    /// killed between leaves a job, which can be removed again.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove(&self, key: &JobKey) -> Result<(), StoreError> {
        self.with_catalogue(|connection, daemon| {
            catalogue::release(connection, daemon, key.uid, &key.id)
        })?;
        self.with(|connection| {
            connection.execute(
                "DELETE FROM jobs WHERE uid = ?1 AND id = ?2",
                params![key.uid, &*key.id],
            )
        })?;
        Ok(())
    }

    /// One job.
    ///
    /// # Errors
    /// SQLite's.
    pub fn get(&self, key: &JobKey) -> Result<Option<JobRow>, StoreError> {
        let query = format!("{SELECT} WHERE jobs.uid = ?1 AND jobs.id = ?2");
        let job = self.with_catalogue(|connection, _| {
            let mut statement = connection.prepare_cached(&query)?;
            statement
                .query_row(params![key.uid, &*key.id], JobRow::read)
                .optional()
        })?;
        Ok(job)
    }

    /// The owners of jobs with this ID.
    ///
    /// # Errors
    /// SQLite's.
    pub fn owners(&self, id: &str) -> Result<Vec<u32>, StoreError> {
        let query = "SELECT uid FROM jobs WHERE id = ?1 ORDER BY uid";
        Ok(self.with(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let owners = statement.query_map([id], |row| row.get::<_, u32>(0))?;
            owners.collect::<Result<_, _>>()
        })?)
    }

    /// The jobs of one owner, or all of them, by start time.
    ///
    /// # Errors
    /// SQLite's.
    pub fn list(&self, owner: Option<u32>, all: bool) -> Result<Vec<JobRow>, StoreError> {
        let query = format!(
            "{SELECT} WHERE (?1 IS NULL OR jobs.uid = ?1)
                 AND (?2 OR newest IS NOT NULL OR state NOT IN ('ended', 'lost', 'checkpointed', 'gone'))"
        );
        let mut jobs = self.with_catalogue(|connection, _| {
            rows(connection.prepare_cached(&query)?, params![owner, all])
        })?;
        // Faster than by SQLite, which would sort whole rows.
        jobs.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        Ok(jobs)
    }

    /// The jobs that have, or should have, a supervisor.
    ///
    /// # Errors
    /// SQLite's.
    pub fn live(&self) -> Result<Vec<JobRow>, StoreError> {
        let query =
            format!("{SELECT} WHERE state NOT IN ('ended', 'lost', 'checkpointed', 'gone')");
        Ok(self.with_catalogue(|connection, _| rows(connection.prepare_cached(&query)?, []))?)
    }

    /// Makes a job that has ended one that is being started. Returns false if it has not
    /// ended, or there is none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begin_restore(&self, key: &JobKey) -> Result<bool, StoreError> {
        let changed = self.with(|connection| {
            connection.execute(
                "UPDATE jobs SET state = 'starting', pid = NULL, supervisor = NULL
                 WHERE uid = ?1 AND id = ?2
                     AND state IN ('ended', 'lost', 'checkpointed', 'gone')",
                params![key.uid, &*key.id],
            )
        })?;
        Ok(changed > 0)
    }

    /// Notes the end of a managed job, unless a checkpoint has ended it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn managed_ended(&self, key: &JobKey, at: i64) -> Result<(), StoreError> {
        self.with(|connection| {
            connection.execute(
                "UPDATE jobs SET state = 'gone', since = ?3, pid = NULL
                 WHERE uid = ?1 AND id = ?2 AND state = 'managed'",
                params![key.uid, &*key.id, at],
            )
        })?;
        Ok(())
    }

    /// The checkpoints of one owner or of all, of one job or of all, oldest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn checkpoints(
        &self,
        owner: Option<u32>,
        job: Option<&str>,
    ) -> Result<Vec<CheckpointRow>, StoreError> {
        let query = "SELECT number, uid, job, path, created, bytes FROM checkpoints_of_jobs AS one
             WHERE (?1 IS NULL OR uid = ?1) AND (?2 IS NULL OR job = ?2)
                 AND EXISTS (SELECT 1 FROM jobs WHERE jobs.uid = one.uid AND jobs.id = one.job)
             ORDER BY created, number";
        Ok(self.with_catalogue(|connection, _| {
            let mut statement = connection.prepare_cached(query)?;
            let found = statement.query_map(params![owner, job], CheckpointRow::read)?;
            found.collect::<Result<_, _>>()
        })?)
    }

    /// Removes a job's checkpoint, whose file was removed, from the catalogue. Memory in the
    /// store stays if it is pinned or tagged.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove_checkpoint(&self, number: i64) -> Result<(), StoreError> {
        self.with_catalogue(|connection, _| catalogue::remove(connection, number))?;
        Ok(())
    }

    /// Records a checkpoint of a job, unless it is recorded.
    ///
    /// # Errors
    /// SQLite's; there is no such job.
    pub fn add_checkpoint(
        &self,
        key: &JobKey,
        path: &[u8],
        created: i64,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.with_catalogue(|connection, daemon| {
            let query = "SELECT 1 FROM jobs WHERE uid = ?1 AND id = ?2";
            let mut statement = connection.prepare_cached(query)?;
            // Deleted meanwhile.
            if !statement.exists(params![key.uid, &*key.id])? {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            let checkpoint = catalogue::New {
                daemon,
                uid: key.uid,
                job: &key.id,
                path,
                created,
                bytes,
                remote: false,
            };
            checkpoint.add(connection)
        })?;
        Ok(())
    }

    /// Whether the checkpoints are unknown, because the store's catalogue can't be used.
    #[must_use]
    pub fn is_without_checkpoints(&self) -> bool {
        self.lock().catalogue.is_missing()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a query of jobs alone.
    fn with<T>(&self, query: impl FnOnce(&Connection) -> T) -> T {
        query(&self.lock().connection)
    }

    /// Runs a query of checkpoints, which gets the daemon's state directory, too. If the
    /// catalogue turns out to be damaged, it is run
    /// again without it.
    fn with_catalogue<T>(
        &self,
        query: impl Fn(&Connection, &[u8]) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut open = self.lock();
        let Open {
            connection,
            catalogue,
        } = &mut *open;
        catalogue.refresh(connection)?;
        match query(connection, catalogue.daemon()) {
            Err(error) if catalogue.give_up(connection, &error)? => {
                query(connection, catalogue.daemon())
            }
            result => result,
        }
    }
}

fn rows(
    mut statement: rusqlite::CachedStatement<'_>,
    parameters: impl Params,
) -> rusqlite::Result<Vec<JobRow>> {
    let statement: &mut Statement<'_> = &mut statement;
    statement.query_map(parameters, JobRow::read)?.collect()
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let mut connection = Connection::open(path)?;
    // The first read. Of a file that is no database nothing was changed until here.
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(OpenError::Damaged(check.replace('\n', "; ")));
    }
    migrations::migrate(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A crash of the machine may lose the last writes, but also ends all jobs.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Of two MiB by default.
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
