//! What collection and check ask the catalogue: the chunks that are used, those that are
//! not, and the packs.

use std::collections::{HashMap, HashSet};

use rusqlite::{Transaction, TransactionBehavior, params};

use super::publish::parse;
use super::{Catalogue, NewPack};
use crate::Error;
use crate::chunk::Name;
use crate::clock::Moment;
use crate::pack::{Index, PackId};

/// A set of chunks' numbers, a bit for each. Numbers are small: each is the largest one
/// plus 1 when it is given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(Vec<u64>);

impl Numbers {
    /// An empty set of numbers up to this one.
    fn up_to(most: i64) -> Self {
        Self(vec![0; usize::try_from(most).unwrap_or(0) / 64 + 1])
    }

    /// Adds a number. One that is larger than the largest, as only damage makes it, is
    /// left out.
    fn insert(&mut self, number: i64) {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    pub(crate) fn contains(&self, number: i64) -> bool {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let word = self.0.get(at / 64);
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// A pack of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) number: i64,
    pub(crate) id: PackId,
    pub(crate) bytes: u64,
    /// The digest of its end.
    pub(crate) digest: Vec<u8>,
}

/// The number of a checkpoint, and those of its chunks.
pub(crate) type ChunksOfRow = (i64, Option<Vec<i64>>);

/// A chunk that goes to a new pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MovedChunk {
    pub(crate) number: i64,
    /// The number of its old pack.
    pub(crate) from: i64,
    /// The number of its new pack among those that are added.
    pub(crate) to: u32,
    pub(crate) offset: u64,
}

/// A chunk of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredChunk {
    pub(crate) number: i64,
    pub(crate) name: Name,
    pub(crate) offset: u64,
    pub(crate) stored: u32,
    pub(crate) pages: u32,
    pub(crate) base: Option<i64>,
}

impl Catalogue {
    /// Runs a transaction that writes.
    pub(crate) fn transaction<T>(
        &mut self,
        run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let failed = self.failed();
        let run_all = move || -> rusqlite::Result<T> {
            let transaction = self
                .connection()
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = run(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run_all().map_err(failed)
    }

    /// A number that changes when another process changes the catalogue.
    pub(crate) fn version(&mut self) -> Result<i64, Error> {
        let failed = self.failed();
        let query = "PRAGMA data_version";
        let version = self.connection().query_row(query, [], |row| row.get(0));
        version.map_err(failed)
    }

    /// When this catalogue was made, in seconds since 1970.
    pub(crate) fn made(&mut self) -> Result<i64, Error> {
        let failed = self.failed();
        let query = "SELECT coalesce(max(seconds), 0) FROM made";
        let made = self.connection().query_row(query, [], |row| row.get(0));
        made.map_err(failed)
    }

    /// The chunks that checkpoints use, but for these checkpoints, and the chunks that
    /// those are patches on.
    ///
    /// # Errors
    /// SQLite's; the chunks of a checkpoint are unreadable, so nothing may be removed.
    pub(crate) fn live(&mut self, without: &HashSet<i64>) -> Result<Numbers, Error> {
        let failed = self.failed();
        let most = super::publish::next_number(self.connection()).map_err(&failed)?;
        let mut live = Numbers::up_to(most);
        for (row, numbers) in self.chunks_of_rows()? {
            if without.contains(&row) {
                continue;
            }
            let numbers = numbers.ok_or_else(|| Error::Damaged {
                path: self.path().to_owned(),
                why: format!("the chunks of its checkpoint {row} can't be read"),
            })?;
            numbers.iter().for_each(|number| live.insert(*number));
        }
        let query = "SELECT number, base FROM chunks WHERE base IS NOT NULL";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            let (number, base) = (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
            if live.contains(number) {
                live.insert(base);
            }
        }
        Ok(live)
    }

    /// The numbers of each checkpoint's chunks; `None` if they can't be read.
    pub(crate) fn chunks_of_rows(&mut self) -> Result<Vec<ChunksOfRow>, Error> {
        let failed = self.failed();
        let query = "SELECT number, chunks FROM checkpoints WHERE chunks IS NOT NULL";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let rows = statement
            .query_map([], |row| {
                Ok((row.get(0)?, parse(&row.get::<_, Vec<u8>>(1)?)))
            })
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// The chunks that are not live, patches before what they are patches on: in this
    /// order they can be removed.
    pub(crate) fn dead(&mut self, live: &Numbers) -> Result<Vec<i64>, Error> {
        let failed = self.failed();
        let mut dead = Vec::new();
        for query in [
            "SELECT number FROM chunks WHERE base IS NOT NULL",
            "SELECT number FROM chunks WHERE base IS NULL",
        ] {
            let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
            let mut rows = statement.query([]).map_err(&failed)?;
            while let Some(row) = rows.next().map_err(&failed)? {
                let number = row.get(0).map_err(&failed)?;
                if !live.contains(number) {
                    dead.push(number);
                }
            }
        }
        Ok(dead)
    }

    /// Removes chunks, in one transaction.
    pub(crate) fn forget(&mut self, chunks: &[i64]) -> Result<(), Error> {
        self.transaction(|transaction| {
            for chunk in chunks {
                transaction
                    .prepare_cached("DELETE FROM sketches WHERE chunk = ?1")?
                    .execute([chunk])?;
                transaction
                    .prepare_cached("DELETE FROM chunks WHERE number = ?1")?
                    .execute([chunk])?;
            }
            Ok(())
        })
    }

    /// Removes the lost chunks that no checkpoint needs any more.
    pub(crate) fn forget_lost(&mut self, live: &Numbers) -> Result<(), Error> {
        let lost: Vec<i64> = self.lost()?.into_iter().map(|(number, _)| number).collect();
        let dead = lost.into_iter().filter(|number| !live.contains(*number));
        let dead: Vec<i64> = dead.collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            for number in &dead {
                transaction.execute("DELETE FROM lost WHERE number = ?1", [number])?;
            }
            Ok(())
        })
    }

    /// The chunks that checkpoints need and no pack has.
    pub(crate) fn lost(&mut self) -> Result<Vec<(i64, Name)>, Error> {
        let failed = self.failed();
        let query = "SELECT number, name FROM lost ORDER BY number";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, Name(row.get(1)?))))
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// All packs.
    pub(crate) fn packs(&mut self) -> Result<Vec<PackRow>, Error> {
        self.packs_where("true")
    }

    /// The packs that no chunk is in.
    pub(crate) fn empty_packs(&mut self) -> Result<Vec<PackRow>, Error> {
        self.packs_where("NOT EXISTS (SELECT 1 FROM chunks WHERE pack = packs.number)")
    }

    fn packs_where(&mut self, condition: &str) -> Result<Vec<PackRow>, Error> {
        let failed = self.failed();
        let query = format!("SELECT number, id, bytes, digest FROM packs WHERE {condition}");
        let mut statement = self.connection().prepare(&query).map_err(&failed)?;
        let rows = statement
            .query_map([], |row| {
                Ok(PackRow {
                    number: row.get(0)?,
                    id: PackId(row.get(1)?),
                    bytes: row.get::<_, i64>(2)?.max(0).cast_unsigned(),
                    digest: row.get(3)?,
                })
            })
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// Removes packs that no chunk is in.
    pub(crate) fn forget_packs(&mut self, packs: &[PackRow]) -> Result<(), Error> {
        self.transaction(|transaction| {
            for pack in packs {
                transaction
                    .prepare_cached("DELETE FROM packs WHERE number = ?1")?
                    .execute([pack.number])?;
            }
            Ok(())
        })
    }

    /// The chunks of a pack, by offset.
    pub(crate) fn chunks_of(&mut self, pack: i64) -> Result<Vec<StoredChunk>, Error> {
        let failed = self.failed();
        let query = "SELECT number, name, offset, stored, pages, base FROM chunks
            WHERE pack = ?1 ORDER BY offset";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let rows = statement
            .query_map([pack], |row| {
                Ok(StoredChunk {
                    number: row.get(0)?,
                    name: Name(row.get(1)?),
                    offset: row.get::<_, i64>(2)?.cast_unsigned(),
                    stored: row.get(3)?,
                    pages: row.get(4)?,
                    base: row.get(5)?,
                })
            })
            .map_err(&failed)?;
        rows.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// The live bytes of each pack: frames, and what the pack's index has for them.
    pub(crate) fn live_bytes(&mut self, live: &Numbers) -> Result<HashMap<i64, u64>, Error> {
        let failed = self.failed();
        let mut bytes = HashMap::new();
        let query = "SELECT number, pack, stored, pages, base IS NULL FROM chunks";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let rows = statement.query_map([], |row| {
            let in_index = Index::bytes_of_entry(row.get(3)?, row.get(4)?);
            let stored = u64::from(row.get::<_, u32>(2)?);
            Ok((row.get(0)?, row.get(1)?, stored + in_index))
        });
        for row in rows.map_err(&failed)? {
            let (number, pack, stored) = row.map_err(&failed)?;
            if live.contains(number) {
                *bytes.entry(pack).or_insert(0) += stored;
            }
        }
        Ok(bytes)
    }

    /// Calls `each` with the number and the pages of all chunks.
    pub(crate) fn each_chunk(&mut self, mut each: impl FnMut(i64, u32)) -> Result<(), Error> {
        let failed = self.failed();
        let query = "SELECT number, pages FROM chunks";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            each(row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
        }
        Ok(())
    }

    /// Moves chunks to new packs, in one transaction. One that is in another pack
    /// meanwhile is left there.
    pub(crate) fn move_chunks(
        &mut self,
        packs: &[NewPack],
        moved: &[MovedChunk],
    ) -> Result<(), Error> {
        let now = Moment::now();
        self.transaction(|transaction| {
            let mut numbers = Vec::new();
            for pack in packs {
                transaction.execute(
                    "INSERT INTO packs (id, bytes, digest, created) VALUES (?1, ?2, ?3, ?4)",
                    params![
                        pack.id.0,
                        pack.bytes.cast_signed(),
                        pack.digest,
                        now.seconds
                    ],
                )?;
                numbers.push(transaction.last_insert_rowid());
            }
            for chunk in moved {
                transaction
                    .prepare_cached(
                        "UPDATE chunks SET pack = ?3, offset = ?4 WHERE number = ?1 AND pack = ?2",
                    )?
                    .execute(params![
                        chunk.number,
                        chunk.from,
                        numbers.get(chunk.to as usize),
                        chunk.offset.cast_signed()
                    ])?;
            }
            Ok(())
        })
    }
}
