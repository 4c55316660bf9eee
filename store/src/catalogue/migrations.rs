//! The schema. Entry N brings version N to N + 1; entries are never changed once they were
//! released. `PRAGMA user_version` is the number of entries applied.

use rusqlite::{Connection, TransactionBehavior};

use super::Failed;

/// - `chunks.base` is the chunk that this one is a patch on.
/// - `checkpoints.id` is the number that the manifest of a checkpoint with memory in the
///   store carries; `chunks` are the numbers of its chunks ([`super::publish`]); `subject`
///   and `details` are JSON; `boot` and `boot_time` tell the age of a row whatever becomes
///   of the clock; `seen` is when a collection last found a reference.
/// - `lost` has the chunks that checkpoints need and no pack has: a check removed them as
///   damaged. A checkpoint that stores such a chunk again gives it its number back, which
///   mends the others.
/// - `blobs` are contents of engines, which never change, with the checkpoint in each.
/// - `made` is when this catalogue was made. A pack that is older, and that it does not
///   know, belonged to another catalogue, which was lost.
/// - `checkpoints.microseconds` is the rest of `created`: the newest checkpoint of a job is
///   the one that is restored, and a job may have several of one second. Rows with a `job`
///   belong to the daemon whose state directory is `daemon`: two daemons may have a job of
///   the same ID.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE packs (
        number INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        bytes INTEGER NOT NULL,
        digest BLOB NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE chunks (
        number INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE,
        pack INTEGER NOT NULL REFERENCES packs (number),
        offset INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        pages INTEGER NOT NULL,
        base INTEGER REFERENCES chunks (number)
    ) STRICT;
    CREATE INDEX chunks_of_pack ON chunks (pack);
    CREATE INDEX chunks_of_base ON chunks (base) WHERE base IS NOT NULL;
    CREATE TABLE sketches (
        feature INTEGER NOT NULL,
        chunk INTEGER NOT NULL,
        PRIMARY KEY (feature, chunk)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sketches_of_chunk ON sketches (chunk);
    CREATE TABLE checkpoints (
        number INTEGER PRIMARY KEY,
        id TEXT UNIQUE,
        name TEXT,
        uid INTEGER NOT NULL,
        job TEXT,
        path BLOB NOT NULL,
        created INTEGER NOT NULL,
        boot TEXT NOT NULL,
        boot_time INTEGER NOT NULL,
        seen INTEGER,
        remote INTEGER NOT NULL DEFAULT 0,
        raw_bytes INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        new_bytes INTEGER NOT NULL DEFAULT 0,
        subject TEXT NOT NULL,
        details TEXT NOT NULL,
        chunks BLOB
    ) STRICT;
    CREATE INDEX checkpoints_of_job ON checkpoints (uid, job, created, remote, bytes);
    CREATE UNIQUE INDEX checkpoint_of_job ON checkpoints (uid, job, path) WHERE job IS NOT NULL;
    CREATE TABLE tags (
        tag TEXT PRIMARY KEY,
        checkpoint INTEGER NOT NULL REFERENCES checkpoints (number) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pins (
        checkpoint INTEGER PRIMARY KEY REFERENCES checkpoints (number) ON DELETE CASCADE
    ) STRICT;
",
    "
    ALTER TABLE checkpoints ADD COLUMN seen_boot TEXT;
    ALTER TABLE checkpoints ADD COLUMN seen_boot_time INTEGER;
    CREATE TABLE lost (
        number INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        checkpoint TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE made (seconds INTEGER NOT NULL) STRICT;
    INSERT INTO made VALUES (unixepoch());
",
    "
    ALTER TABLE checkpoints ADD COLUMN microseconds INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE checkpoints ADD COLUMN daemon BLOB;
    DROP INDEX checkpoints_of_job;
    CREATE INDEX checkpoints_of_job
        ON checkpoints (daemon, uid, job, created, microseconds, remote, bytes)
        WHERE job IS NOT NULL;
    DROP INDEX checkpoint_of_job;
    CREATE UNIQUE INDEX checkpoint_of_job ON checkpoints (daemon, uid, job, path)
        WHERE job IS NOT NULL;
    CREATE INDEX checkpoints_of_path ON checkpoints (path) WHERE job IS NULL;
",
];

/// Brings the catalogue to the present version. A newer one is left as it is.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Failed> {
    if check(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    // Two processes may find a new catalogue at once.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = check(&transaction)?;
    for (number, sql) in (1i64..).zip(MIGRATIONS).skip(found) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    transaction.commit()?;
    Ok(())
}

/// The version, which must be known.
pub(super) fn check(connection: &Connection) -> Result<usize, Failed> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match usize::try_from(found) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Failed::Newer {
            found,
            known: MIGRATIONS.len() as i64,
        }),
    }
}
