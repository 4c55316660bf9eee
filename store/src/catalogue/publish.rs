//! Adds a checkpoint with its packs and chunks.
//!
//! The numbers of a checkpoint's chunks are one value: sorted, the difference to the one
//! before in seven bits a byte. A checkpoint of 4 GiB has 16,000.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{Catalogue, CheckpointId, NewCheckpoint};
use crate::Error;
use crate::chunk::{Name, Sketch};
use crate::clock::Moment;
use crate::pack::PackId;

/// A pack that is in its place.
#[derive(Debug, Clone)]
pub struct NewPack {
    /// Its ID.
    pub id: PackId,
    /// Its bytes.
    pub bytes: u64,
    /// The BLAKE3 of its end.
    pub digest: [u8; 32],
}

/// A chunk of a new pack.
#[derive(Debug, Clone)]
pub struct NewChunk {
    /// Its name.
    pub name: Name,
    /// Its pack, by its number in the publication.
    pub pack: u32,
    /// The offset of its frame.
    pub offset: u64,
    /// The bytes of its frame.
    pub stored: u32,
    /// Its pages.
    pub pages: u32,
    /// The number of the chunk that it is a patch on.
    pub base: Option<i64>,
    /// By which it is found as a base of others.
    pub sketch: Option<Sketch>,
}

/// A checkpoint with what it adds to the store.
#[derive(Debug)]
pub struct Publication<'a> {
    /// The checkpoint.
    pub checkpoint: &'a NewCheckpoint,
    /// Its new packs.
    pub packs: &'a [NewPack],
    /// Its new chunks.
    pub chunks: &'a [NewChunk],
    /// The numbers of its chunks that were known.
    pub known: &'a [i64],
}

impl Catalogue {
    /// Adds a checkpoint: durable on return.
    ///
    /// # Errors
    /// SQLite's. Nothing is added then.
    pub fn publish(&mut self, publication: &Publication<'_>) -> Result<(), Error> {
        let failed = self.failed();
        let mut add = || -> rusqlite::Result<()> {
            let transaction = self
                .connection()
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            publication.add(&transaction)?;
            transaction.commit()
        };
        add().map_err(failed)
    }

    /// Sets the path of a checkpoint.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_path(&mut self, id: &CheckpointId, path: &Path) -> Result<(), Error> {
        let failed = self.failed();
        let query = "UPDATE checkpoints SET path = ?2 WHERE id = ?1";
        let path = path.as_os_str().as_encoded_bytes();
        let set = self.connection().execute(query, params![id.as_str(), path]);
        set.map(|_| ()).map_err(failed)
    }
}

impl Publication<'_> {
    fn add(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let now = Moment::now();
        let mut packs = Vec::new();
        let query = "INSERT INTO packs (id, bytes, digest, created) VALUES (?1, ?2, ?3, ?4)";
        for pack in self.packs {
            let bytes = pack.bytes.cast_signed();
            transaction.execute(query, params![pack.id.0, bytes, pack.digest, now.seconds])?;
            packs.push(transaction.last_insert_rowid());
        }
        let mut used: Vec<i64> = self.known.to_vec();
        self.add_chunks(transaction, &packs, &mut used)?;
        let checkpoint = self.checkpoint;
        let new_bytes: u64 = self.packs.iter().map(|pack| pack.bytes).sum();
        transaction.execute(
            "INSERT INTO checkpoints (id, name, uid, path, created, boot, boot_time, raw_bytes,
                 bytes, new_bytes, subject, details, chunks)
             VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                checkpoint.id.as_str(),
                checkpoint.name,
                checkpoint.path.as_os_str().as_encoded_bytes(),
                now.seconds,
                now.boot,
                now.since_boot,
                checkpoint.raw_bytes.cast_signed(),
                checkpoint.bytes.cast_signed(),
                new_bytes.cast_signed(),
                checkpoint.subject.to_string(),
                checkpoint.details.to_string(),
                render(&mut used),
            ],
        )?;
        Ok(())
    }

    fn add_chunks(
        &self,
        transaction: &Transaction<'_>,
        packs: &[i64],
        used: &mut Vec<i64>,
    ) -> rusqlite::Result<()> {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO chunks (number, name, pack, offset, stored, pages, base)
             VALUES (coalesce((SELECT number FROM lost WHERE name = ?1), ?7),
                 ?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (name) DO NOTHING",
        )?;
        let mut found = transaction.prepare_cached("DELETE FROM lost WHERE name = ?1")?;
        let mut next = next_number(transaction)?;
        let mut number = transaction.prepare_cached("SELECT number FROM chunks WHERE name = ?1")?;
        let mut sketch =
            transaction.prepare_cached("INSERT OR IGNORE INTO sketches VALUES (?1, ?2)")?;
        for chunk in self.chunks {
            let inserted = insert.execute(params![
                chunk.name.0,
                packs.get(chunk.pack as usize),
                chunk.offset.cast_signed(),
                chunk.stored,
                chunk.pages,
                chunk.base,
                next,
            ])?;
            // Another session may have stored the same one meanwhile; ours stays unused.
            if inserted == 0 {
                used.push(number.query_row([chunk.name.0], |row| row.get(0))?);
                continue;
            }
            let number = transaction.last_insert_rowid();
            match number == next {
                true => next += 1,
                false => _ = found.execute([chunk.name.0])?,
            }
            used.push(number);
            for feature in chunk.sketch.iter().flat_map(|sketch| sketch.0) {
                sketch.execute(params![feature, number])?;
            }
        }
        Ok(())
    }
}

/// A chunk's number that none had, as long as a checkpoint refers to it.
pub(super) fn next_number(connection: &Connection) -> rusqlite::Result<i64> {
    let query = "SELECT 1 + max(coalesce((SELECT max(number) FROM chunks), 0),
        coalesce((SELECT max(number) FROM lost), 0))";
    connection.query_row(query, [], |row| row.get(0))
}

/// The numbers of chunks as one value.
pub(crate) fn render(numbers: &mut Vec<i64>) -> Vec<u8> {
    numbers.sort_unstable();
    numbers.dedup();
    let mut bytes = Vec::new();
    let mut before = 0;
    for &number in &*numbers {
        let mut left = (number - before).cast_unsigned();
        before = number;
        while left >= 0x80 {
            bytes.push((left & 0x7F) as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
    }
    bytes
}

/// The numbers of such a value; `None` if it is damaged.
pub(crate) fn parse(bytes: &[u8]) -> Option<Vec<i64>> {
    let mut numbers = Vec::new();
    let (mut number, mut step, mut shift) = (0i64, 0u64, 0);
    for &byte in bytes {
        if shift > 56 {
            return None;
        }
        step |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            number = number.checked_add(i64::try_from(step).ok()?)?;
            numbers.push(number);
            (step, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(numbers)
}
