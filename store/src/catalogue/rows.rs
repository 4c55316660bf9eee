//! The checkpoints of the catalogue, as collection and people look at them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rusqlite::{Row, TransactionBehavior, params};

use super::{Catalogue, CheckpointId};
use crate::Error;
use crate::clock::Moment;

/// Contents of engines, by digest, with the checkpoint in each: `None` if there is none.
pub type Blobs = HashMap<String, Option<CheckpointId>>;

/// A checkpoint of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointRow {
    /// Its number in the catalogue.
    pub number: i64,
    /// The ID that its manifest carries; `None` if its memory is not in the store.
    pub id: Option<CheckpointId>,
    /// The name that people gave it.
    pub name: Option<String>,
    /// The user whose it is.
    pub uid: u32,
    /// The job that it is of.
    pub job: Option<String>,
    /// Where it was written to.
    pub path: PathBuf,
    /// When it was written.
    pub created: Moment,
    /// When a collection last found a reference to it.
    pub seen: Option<Moment>,
    /// Whether it is in shared storage.
    pub remote: bool,
    /// The bytes of its memory.
    pub raw_bytes: u64,
    /// The bytes of its directory.
    pub bytes: u64,
    /// The bytes that it added to the store.
    pub new_bytes: u64,
    /// What it is of, in JSON.
    pub subject: serde_json::Value,
    /// Whether it has a tag or a pin, which keep it.
    pub is_kept: bool,
}

const SELECT: &str = "SELECT number, id, name, uid, job, path, created, boot, boot_time,
        seen, seen_boot, seen_boot_time, remote, raw_bytes, bytes, new_bytes, subject,
        EXISTS (SELECT 1 FROM tags WHERE checkpoint = number)
            OR EXISTS (SELECT 1 FROM pins WHERE checkpoint = number)
    FROM checkpoints";

impl CheckpointRow {
    /// The time since a reference to it was last known.
    #[must_use]
    pub fn unseen(&self, now: &Moment) -> std::time::Duration {
        let created = self.created.until(now);
        let seen = self.seen.as_ref().map(|seen| seen.until(now));
        seen.map_or(created, |seen| seen.min(created))
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let size = |column| {
            row.get::<_, i64>(column)
                .map(|bytes| bytes.max(0).cast_unsigned())
        };
        let id: Option<String> = row.get(1)?;
        let subject: String = row.get(16)?;
        let seen: Option<i64> = row.get(9)?;
        Ok(Self {
            number: row.get(0)?,
            id: id.and_then(|id| CheckpointId::parse(&id)),
            name: row.get(2)?,
            uid: row.get(3)?,
            job: row.get(4)?,
            path: OsString::from_vec(row.get(5)?).into(),
            created: Moment {
                seconds: row.get(6)?,
                boot: row.get(7)?,
                since_boot: row.get(8)?,
            },
            seen: match seen {
                Some(seconds) => Some(Moment {
                    seconds,
                    boot: row.get::<_, Option<String>>(10)?.unwrap_or_default(),
                    since_boot: row.get::<_, Option<i64>>(11)?.unwrap_or_default(),
                }),
                None => None,
            },
            remote: row.get(12)?,
            raw_bytes: size(13)?,
            bytes: size(14)?,
            new_bytes: size(15)?,
            // What is no JSON says nothing about references: the row is kept.
            subject: serde_json::from_str(&subject).unwrap_or_default(),
            is_kept: row.get(17)?,
        })
    }
}

impl Catalogue {
    /// All checkpoints, in the order of their numbers.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rows(&mut self) -> Result<Vec<CheckpointRow>, Error> {
        let failed = self.failed();
        let query = format!("{SELECT} ORDER BY number");
        let mut statement = self.connection().prepare_cached(&query).map_err(&failed)?;
        let rows = statement
            .query_map([], CheckpointRow::read)
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// Notes that references to these checkpoints were found.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn set_seen(&mut self, numbers: &[i64], now: &Moment) -> Result<(), Error> {
        let failed = self.failed();
        let mut set = || -> rusqlite::Result<()> {
            let transaction = self
                .connection()
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for number in numbers {
                transaction
                    .prepare_cached(
                        "UPDATE checkpoints SET seen = ?2, seen_boot = ?3, seen_boot_time = ?4
                         WHERE number = ?1",
                    )?
                    .execute(params![number, now.seconds, now.boot, now.since_boot])?;
            }
            transaction.commit()
        };
        set().map_err(failed)
    }

    /// Removes a checkpoint, unless it was tagged, pinned, seen or made a job's since it
    /// was read.
    /// Returns whether it was removed.
    ///
    /// # Errors
    /// SQLite's.
    pub(crate) fn remove_row(&mut self, row: &CheckpointRow) -> Result<bool, Error> {
        let failed = self.failed();
        let query = "DELETE FROM checkpoints
            WHERE number = ?1 AND id IS ?2 AND seen IS ?3 AND job IS NULL
                AND NOT EXISTS (SELECT 1 FROM tags WHERE checkpoint = number)
                AND NOT EXISTS (SELECT 1 FROM pins WHERE checkpoint = number)";
        let id = row.id.as_ref().map(CheckpointId::as_str);
        let seen = row.seen.as_ref().map(|seen| seen.seconds);
        let removed = self
            .connection()
            .execute(query, params![row.number, id, seen]);
        removed.map(|rows| rows > 0).map_err(failed)
    }

    /// The contents of engines that were looked at before, by digest, with the checkpoint
    /// in each.
    ///
    /// # Errors
    /// SQLite's.
    pub fn blobs(&mut self) -> Result<Blobs, Error> {
        let failed = self.failed();
        let query = "SELECT digest, checkpoint FROM blobs";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let rows = statement.query_map([], |row| {
            let id: Option<String> = row.get(1)?;
            Ok((row.get(0)?, id.and_then(|id| CheckpointId::parse(&id))))
        });
        let rows = rows.map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// Notes the contents that engines have now.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_blobs(&mut self, blobs: &Blobs) -> Result<(), Error> {
        let before = self.blobs()?;
        if *blobs == before {
            return Ok(());
        }
        self.transaction(|transaction| {
            for (digest, id) in blobs {
                if !before.contains_key(digest) {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2)")?
                        .execute(params![digest, id.as_ref().map(CheckpointId::as_str)])?;
                }
            }
            for digest in before.keys().filter(|digest| !blobs.contains_key(*digest)) {
                transaction
                    .prepare_cached("DELETE FROM blobs WHERE digest = ?1")?
                    .execute([digest])?;
            }
            Ok(())
        })
    }
}
