//! Finds chunks: by their name, and those that are similar.

use rusqlite::{OptionalExtension, Row, params};

use super::Catalogue;
use crate::Error;
use crate::chunk::{Name, Sketch};
use crate::pack::PackId;

/// A chunk, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its number in the catalogue.
    pub number: i64,
    /// Its name.
    pub name: Name,
    /// Its pack.
    pub pack: PackId,
    /// The offset of its frame.
    pub offset: u64,
    /// The bytes of its frame.
    pub stored: u32,
    /// Its pages.
    pub pages: u32,
    /// The number of the chunk that it is a patch on.
    pub base: Option<i64>,
}

/// A chunk that may share pages with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Similar {
    /// The chunk, which has no base.
    pub chunk: Located,
}

/// The most similar chunks that are looked at. A page that many chunks have, such as a
/// library's, makes all of them similar; the newest ones are the most likely.
const CANDIDATES: u32 = 2;

const SELECT: &str = "SELECT chunks.number, chunks.name, packs.id, chunks.offset, chunks.stored,
        chunks.pages, chunks.base
    FROM chunks JOIN packs ON packs.number = chunks.pack";

impl Catalogue {
    /// The chunk of a name.
    ///
    /// # Errors
    /// SQLite's.
    pub fn chunk(&mut self, name: &Name) -> Result<Option<Located>, Error> {
        let failed = self.failed();
        let query = format!("{SELECT} WHERE chunks.name = ?1");
        let mut statement = self.connection().prepare_cached(&query).map_err(&failed)?;
        let found = statement.query_row([name.0], Located::read).optional();
        found.map_err(failed)
    }

    /// The chunk of a number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn numbered(&mut self, number: i64) -> Result<Option<Located>, Error> {
        let failed = self.failed();
        let query = format!("{SELECT} WHERE chunks.number = ?1");
        let mut statement = self.connection().prepare_cached(&query).map_err(&failed)?;
        let found = statement.query_row([number], Located::read).optional();
        found.map_err(failed)
    }

    /// Chunks that may share pages with one of this sketch, the most likely first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn similar(&mut self, sketch: &Sketch) -> Result<Vec<Similar>, Error> {
        let failed = self.failed();
        let query = format!(
            "{SELECT} WHERE chunks.number IN
                 (SELECT chunk FROM sketches WHERE feature = ?1 ORDER BY chunk DESC LIMIT ?2)"
        );
        let mut statement = self.connection().prepare_cached(&query).map_err(&failed)?;
        let mut similar: Vec<Similar> = Vec::new();
        for feature in sketch.0 {
            let found = statement.query_map(params![feature, CANDIDATES], Located::read);
            for chunk in found.map_err(&failed)? {
                let chunk = chunk.map_err(&failed)?;
                if similar.iter().all(|known| known.chunk != chunk) {
                    similar.push(Similar { chunk });
                }
            }
        }
        Ok(similar)
    }

    /// The bytes of all packs.
    ///
    /// # Errors
    /// SQLite's.
    pub fn used_bytes(&mut self) -> Result<u64, Error> {
        let failed = self.failed();
        let query = "SELECT coalesce(sum(bytes), 0) FROM packs";
        let bytes = self
            .connection()
            .query_row(query, [], |row| row.get::<_, i64>(0));
        Ok(bytes.map_err(failed)?.cast_unsigned())
    }
}

impl Located {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            name: Name(row.get(1)?),
            pack: PackId(row.get(2)?),
            offset: row.get::<_, i64>(3)?.cast_unsigned(),
            stored: row.get(4)?,
            pages: row.get(5)?,
            base: row.get(6)?,
        })
    }
}
