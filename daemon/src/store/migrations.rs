//! The database's schema. Entry N brings version N to N + 1; entries are never changed
//! once they were released. `PRAGMA user_version` is the number of entries applied.
//!
//! The last entry waits until the checkpoints were copied to the store's catalogue.

use rusqlite::Connection;

use super::error::OpenError;

const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE jobs (
        uid INTEGER NOT NULL,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        since INTEGER NOT NULL,
        created INTEGER NOT NULL,
        pid INTEGER,
        supervisor INTEGER,
        exit_code INTEGER,
        exit_signal INTEGER,
        restarts INTEGER NOT NULL DEFAULT 0,
        restart_policy TEXT NOT NULL,
        command TEXT NOT NULL,
        working_directory BLOB NOT NULL,
        terminal INTEGER NOT NULL,
        log_file BLOB,
        PRIMARY KEY (uid, id)
    ) STRICT;
    CREATE TABLE checkpoints (
        number INTEGER PRIMARY KEY,
        uid INTEGER NOT NULL,
        job TEXT NOT NULL,
        path BLOB NOT NULL,
        created INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        remote INTEGER NOT NULL,
        FOREIGN KEY (uid, job) REFERENCES jobs (uid, id) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX checkpoints_of_job ON checkpoints (uid, job, created, remote, bytes);
",
    "
    ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT '{}';
    CREATE UNIQUE INDEX checkpoint_of_job ON checkpoints (uid, job, path);
",
    "
    DROP TABLE main.checkpoints;
",
];

/// The last version whose database has the checkpoints.
const WITH_CHECKPOINTS: usize = 2;

/// Brings the database to the present version, but for the removal of the checkpoints. A
/// newer one is left as it is.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let found = version(connection)?;
    let known = MIGRATIONS.len() as i64;
    let Some(missing) = usize::try_from(found)
        .ok()
        .and_then(|found| MIGRATIONS.get(found..))
    else {
        return Err(OpenError::Newer { found, known });
    };
    let waiting = MIGRATIONS.len() - WITH_CHECKPOINTS;
    let missing = &missing[..missing.len().saturating_sub(waiting)];
    for (number, sql) in (found + 1..).zip(missing) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Whether the checkpoints are still in the database.
pub(super) fn has_checkpoints(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(version(connection)? == WITH_CHECKPOINTS as i64)
}

/// Removes the checkpoints, which were copied.
pub(super) fn drop_checkpoints(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (number, sql) in (1i64..).zip(MIGRATIONS).skip(WITH_CHECKPOINTS) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(Some("main"), "user_version", number)?;
    }
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA main.user_version", [], |row| row.get(0))
}
