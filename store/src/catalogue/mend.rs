//! What a check asks the catalogue, and what a repair changes.

use std::collections::{HashMap, HashSet};

use rusqlite::{OptionalExtension, params};

use super::publish::{next_number, render};
use super::{Catalogue, CheckpointRow, NewCheckpoint};
use crate::Error;
use crate::chunk::{Name, Sketch};
use crate::clock::Moment;
use crate::pack::{Entry, PackId};

/// The most messages of SQLite's check.
const MESSAGES: u32 = 20;

/// The engine of the row that keeps chunks whose checkpoints a repair did not find.
const RECOVERED: &str = r#"{"engine":"recovered"}"#;

impl Catalogue {
    /// What SQLite finds wrong with the file.
    pub(crate) fn integrity(&mut self) -> Result<Vec<String>, Error> {
        let failed = self.failed();
        let query = format!("PRAGMA integrity_check({MESSAGES})");
        let mut statement = self.connection().prepare(&query).map_err(&failed)?;
        let messages = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        let mut messages = messages
            .collect::<rusqlite::Result<Vec<String>>>()
            .map_err(&failed)?;
        messages.retain(|message| message != "ok");
        drop(statement);
        let mut statement = self
            .connection()
            .prepare("PRAGMA foreign_key_check")
            .map_err(&failed)?;
        if statement.exists([]).map_err(&failed)? {
            messages.push("a row refers to one that is not there".to_owned());
        }
        drop(statement);
        for (number, chunks) in self.chunks_of_rows()? {
            if chunks.is_none() {
                messages.push(format!("the chunks of checkpoint {number} can't be read"));
            }
        }
        Ok(messages)
    }

    /// The checkpoints that need chunks which the store does not have, with their number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn damaged_rows(&mut self) -> Result<Vec<(CheckpointRow, u64)>, Error> {
        let failed = self.failed();
        let mut damaged = HashMap::new();
        {
            let rows = self.chunks_of_rows()?;
            let query = "SELECT 1 FROM chunks WHERE number = ?1";
            let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
            for (row, chunks) in rows {
                let mut missing = 0;
                for chunk in chunks.unwrap_or_default() {
                    if !statement.exists([chunk]).map_err(&failed)? {
                        missing += 1;
                    }
                }
                if missing > 0 {
                    damaged.insert(row, missing);
                }
            }
        }
        let rows = self.rows()?.into_iter();
        Ok(rows
            .filter_map(|row| damaged.get(&row.number).map(|missing| (row, *missing)))
            .collect())
    }

    /// The chunks that are patches on these.
    pub(crate) fn patches_on(&mut self, bases: &HashSet<i64>) -> Result<Vec<i64>, Error> {
        let failed = self.failed();
        let query = "SELECT number FROM chunks WHERE base = ?1";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let mut patches = Vec::new();
        for base in bases {
            let found = statement
                .query_map([base], |row| row.get(0))
                .map_err(&failed)?;
            let found = found.collect::<rusqlite::Result<Vec<i64>>>();
            patches.extend(found.map_err(&failed)?);
        }
        Ok(patches)
    }

    /// Forgets damaged chunks and those that are patches on them. Checkpoints need them
    /// until they are stored again.
    pub(crate) fn lose(&mut self, chunks: &[i64]) -> Result<(), Error> {
        self.transaction(|transaction| {
            for chunk in chunks {
                for condition in ["base = ?1", "number = ?1"] {
                    for query in [
                        format!(
                            "INSERT INTO lost SELECT number, name FROM chunks WHERE {condition}"
                        ),
                        format!(
                            "DELETE FROM sketches WHERE chunk IN
                                 (SELECT number FROM chunks WHERE {condition})"
                        ),
                        format!("DELETE FROM chunks WHERE {condition}"),
                    ] {
                        transaction.prepare_cached(&query)?.execute([chunk])?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Adds a pack with its chunks, of which those without a base come from the index, and
    /// returns its number. Chunks that are known already are left out.
    pub(crate) fn add_pack(
        &mut self,
        id: PackId,
        bytes: u64,
        digest: [u8; 32],
        entries: &[Entry],
    ) -> Result<i64, Error> {
        let now = Moment::now();
        self.transaction(|transaction| {
            transaction.execute(
                "INSERT INTO packs (id, bytes, digest, created) VALUES (?1, ?2, ?3, ?4)",
                params![id.0, bytes.cast_signed(), digest, now.seconds],
            )?;
            let pack = transaction.last_insert_rowid();
            let mut next = next_number(transaction)?;
            for entry in entries.iter().filter(|entry| entry.base.is_none()) {
                let added = transaction
                    .prepare_cached(
                        "INSERT INTO chunks (number, name, pack, offset, stored, pages)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING",
                    )?
                    .execute(params![
                        next,
                        entry.name.0,
                        pack,
                        entry.offset.cast_signed(),
                        entry.stored,
                        entry.pages
                    ])?;
                if added == 0 {
                    continue;
                }
                let sketch = Sketch::of_beginnings(&*entry.digests);
                for feature in sketch.iter().flat_map(|sketch| sketch.0) {
                    transaction
                        .prepare_cached("INSERT OR IGNORE INTO sketches VALUES (?1, ?2)")?
                        .execute(params![feature, next])?;
                }
                next += 1;
            }
            Ok(pack)
        })
    }

    /// Adds the patches of a pack whose bases are known.
    pub(crate) fn add_patches(&mut self, pack: i64, patches: &[Entry]) -> Result<(), Error> {
        self.transaction(|transaction| {
            let mut next = next_number(transaction)?;
            for entry in patches {
                let Some(base) = entry.base else { continue };
                let added = transaction
                    .prepare_cached(
                        "INSERT INTO chunks (number, name, pack, offset, stored, pages, base)
                         SELECT ?1, ?2, ?3, ?4, ?5, ?6, number FROM chunks
                             WHERE name = ?7 AND base IS NULL
                         ON CONFLICT (name) DO NOTHING",
                    )?
                    .execute(params![
                        next,
                        entry.name.0,
                        pack,
                        entry.offset.cast_signed(),
                        entry.stored,
                        entry.pages,
                        base.0
                    ])?;
                next += added as i64;
            }
            Ok(())
        })
    }

    /// Adds a checkpoint that was found, with the chunks of these names. Those that the
    /// store does not have are lost.
    pub(crate) fn add_found(
        &mut self,
        checkpoint: &NewCheckpoint,
        names: &[Name],
    ) -> Result<(), Error> {
        let now = Moment::now();
        self.transaction(|transaction| {
            let mut numbers = Vec::with_capacity(names.len());
            for name in names {
                let known: Option<i64> = transaction
                    .prepare_cached(
                        "SELECT number FROM chunks WHERE name = ?1
                         UNION ALL SELECT number FROM lost WHERE name = ?1",
                    )?
                    .query_row([name.0], |row| row.get(0))
                    .optional()?;
                numbers.push(match known {
                    Some(number) => number,
                    None => {
                        let next = next_number(transaction)?;
                        let query = "INSERT INTO lost VALUES (?1, ?2)";
                        transaction.execute(query, params![next, name.0])?;
                        next
                    }
                });
            }
            let id = Some(checkpoint.id.as_str());
            add_row(
                transaction,
                id,
                checkpoint,
                &checkpoint.subject.to_string(),
                &now,
                &mut numbers,
            )
        })
    }

    /// Keeps all chunks that no checkpoint uses, for checkpoints that were not found.
    /// Returns the number of chunks.
    pub(crate) fn keep_the_rest(&mut self, checkpoint: &NewCheckpoint) -> Result<u64, Error> {
        let live = self.live(&HashSet::new())?;
        let mut rest = self.dead(&live)?;
        if rest.is_empty() {
            return Ok(0);
        }
        let now = Moment::now();
        self.transaction(|transaction| {
            add_row(transaction, None, checkpoint, RECOVERED, &now, &mut rest)?;
            let row = transaction.last_insert_rowid();
            transaction.execute("INSERT INTO pins VALUES (?1)", [row])
        })?;
        Ok(rest.len() as u64)
    }

    /// Removes what a repair kept for checkpoints that it did not find. Returns whether
    /// there was anything.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove_recovered(&mut self) -> Result<bool, Error> {
        let failed = self.failed();
        let query = "DELETE FROM checkpoints WHERE subject = ?1";
        let removed = self.connection().execute(query, [RECOVERED]);
        removed.map(|rows| rows > 0).map_err(failed)
    }

    /// Writes everything into the one file, and closes it.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        let failed = self.failed();
        let mode: Result<String, _> =
            self.connection()
                .query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0));
        mode.map_err(&failed)?;
        self.connection.close().map_err(|(_, error)| failed(error))
    }
}

fn add_row(
    connection: &rusqlite::Connection,
    id: Option<&str>,
    checkpoint: &NewCheckpoint,
    subject: &str,
    now: &Moment,
    numbers: &mut Vec<i64>,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO checkpoints (id, name, uid, path, created, boot, boot_time, raw_bytes,
             bytes, subject, details, chunks)
         VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            id,
            checkpoint.name,
            checkpoint.path.as_os_str().as_encoded_bytes(),
            now.seconds,
            now.boot,
            now.since_boot,
            checkpoint.raw_bytes.cast_signed(),
            checkpoint.bytes.cast_signed(),
            subject,
            checkpoint.details.to_string(),
            render(numbers),
        ],
    )?;
    Ok(())
}
