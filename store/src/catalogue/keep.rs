//! Tags and pins, which keep a checkpoint's memory whatever becomes of its directory, and
//! what a person removes.

use rusqlite::params;

use super::{Catalogue, CheckpointId, CheckpointRow};
use crate::Error;

/// The fewest digits that name a checkpoint. Fewer are likely to be a number or a job.
pub const SHORTEST: usize = 8;

/// What a beginning of an ID names.
#[derive(Debug, Clone, PartialEq)]
pub enum Named {
    /// One checkpoint.
    One(Box<CheckpointRow>),
    /// Several.
    Several(Vec<CheckpointId>),
    /// None, or it is no beginning of an ID.
    Nothing,
}

impl Catalogue {
    /// The checkpoint whose ID is this text, or begins with it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn named(&mut self, text: &str) -> Result<Named, Error> {
        let is_beginning = (SHORTEST..=32).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_beginning {
            return Ok(Named::Nothing);
        }
        let mut found = self.rows()?;
        found.retain(|row| {
            let id = row.id.as_ref();
            id.is_some_and(|id| id.as_str().starts_with(text))
        });
        Ok(match found.len() {
            0 | 1 => found
                .pop()
                .map_or(Named::Nothing, |row| Named::One(Box::new(row))),
            _ => Named::Several(found.into_iter().filter_map(|row| row.id).collect()),
        })
    }

    /// Machine, versions and cost of a checkpoint, in JSON.
    ///
    /// # Errors
    /// SQLite's.
    pub fn details(&mut self, row: &CheckpointRow) -> Result<serde_json::Value, Error> {
        let failed = self.failed();
        let query = "SELECT details FROM checkpoints WHERE number = ?1";
        let details: String = self
            .connection()
            .query_row(query, [row.number], |row| row.get(0))
            .map_err(failed)?;
        Ok(serde_json::from_str(&details).unwrap_or_default())
    }

    /// The tags of all checkpoints, with the number of each one's checkpoint.
    ///
    /// # Errors
    /// SQLite's.
    pub fn tags(&mut self) -> Result<Vec<(String, i64)>, Error> {
        let failed = self.failed();
        let query = "SELECT tag, checkpoint FROM tags ORDER BY tag";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let tags = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(&failed)?;
        tags.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// The numbers of the checkpoints that are pinned.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pins(&mut self) -> Result<Vec<i64>, Error> {
        let failed = self.failed();
        let query = "SELECT checkpoint FROM pins";
        let mut statement = self.connection().prepare_cached(query).map_err(&failed)?;
        let pins = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        pins.collect::<rusqlite::Result<_>>().map_err(failed)
    }

    /// Gives a checkpoint a tag, which another one loses. Returns false if there is no such
    /// checkpoint.
    ///
    /// # Errors
    /// SQLite's.
    pub fn tag(&mut self, id: &CheckpointId, tag: &str) -> Result<bool, Error> {
        let query = "INSERT INTO tags SELECT ?2, number FROM checkpoints WHERE id = ?1
            ON CONFLICT (tag) DO UPDATE SET checkpoint = excluded.checkpoint";
        self.change(query, params![id.as_str(), tag])
    }

    /// Removes a tag. Returns false if no checkpoint has it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn untag(&mut self, tag: &str) -> Result<bool, Error> {
        self.change("DELETE FROM tags WHERE tag = ?1", params![tag])
    }

    /// Pins a checkpoint. Returns false if it was pinned, or there is none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn pin(&mut self, id: &CheckpointId) -> Result<bool, Error> {
        let query = "INSERT OR IGNORE INTO pins SELECT number FROM checkpoints WHERE id = ?1";
        self.change(query, params![id.as_str()])
    }

    /// Takes a checkpoint's pin away. Returns false if it had none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unpin(&mut self, id: &CheckpointId) -> Result<bool, Error> {
        let query = "DELETE FROM pins
            WHERE checkpoint = (SELECT number FROM checkpoints WHERE id = ?1)";
        self.change(query, params![id.as_str()])
    }

    /// Removes a checkpoint that is no job's and has neither tag nor pin. Returns whether
    /// it was removed. Its chunks are collected.
    ///
    /// # Errors
    /// SQLite's.
    pub fn remove_unkept(&mut self, id: &CheckpointId) -> Result<bool, Error> {
        let query = "DELETE FROM checkpoints WHERE id = ?1 AND job IS NULL
            AND NOT EXISTS (SELECT 1 FROM tags WHERE checkpoint = number)
            AND NOT EXISTS (SELECT 1 FROM pins WHERE checkpoint = number)";
        self.change(query, params![id.as_str()])
    }

    fn change(&mut self, query: &str, parameters: impl rusqlite::Params) -> Result<bool, Error> {
        let failed = self.failed();
        let changed = self.connection().execute(query, parameters);
        changed.map(|rows| rows > 0).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, memory};

    #[test]
    fn a_beginning_names_one_checkpoint() {
        let fixture = Fixture::new();
        let one = fixture.write("one", &memory(1..20));
        let mut catalogue = fixture.catalogue();
        let mut named = |text: &str| catalogue.named(text).expect("asked");
        let id = one.id.as_str();
        for text in [id, &id[..SHORTEST]] {
            let Named::One(row) = named(text) else {
                panic!("{text} names none");
            };
            assert_eq!(row.id, Some(one.id.clone()));
        }
        for text in [
            &id[..SHORTEST - 1],
            "",
            "one",
            "%%%%%%%%",
            &format!("{id}0"),
        ] {
            assert_eq!(named(text), Named::Nothing, "{text}");
        }
        let twin = CheckpointId::parse(&format!(
            "{}{}",
            &id[..31],
            if id.ends_with('0') { 1 } else { 0 }
        ));
        let twin = twin.expect("an ID");
        let raw = memory(1..20);
        let (session, _) = fixture.begin(&raw);
        let published = session.publish(&fixture.checkpoint(&twin, "twin", &raw));
        published.expect("published");
        assert_eq!(named(&id[..31]), Named::Several(vec![one.id.clone(), twin]));
        assert!(matches!(named(id), Named::One(_)));
    }

    #[test]
    fn what_is_tagged_or_pinned_is_not_removed() {
        let fixture = Fixture::new();
        let one = fixture.write("one", &memory(1..20)).id;
        let two = fixture.write("two", &memory(1..30)).id;
        let mut catalogue = fixture.catalogue();
        assert!(catalogue.tag(&one, "good").expect("tagged"));
        assert!(!catalogue.remove_unkept(&one).expect("asked"));
        assert!(catalogue.tag(&two, "good").expect("moved"));
        let tags = catalogue.tags().expect("tags");
        assert_eq!(tags.len(), 1);
        assert!(catalogue.pin(&one).expect("pinned"));
        assert!(!catalogue.pin(&one).expect("again"));
        assert_eq!(catalogue.pins().expect("pins").len(), 1);
        assert!(!catalogue.remove_unkept(&one).expect("asked"));
        assert!(catalogue.unpin(&one).expect("unpinned"));
        assert!(!catalogue.unpin(&one).expect("again"));
        assert!(catalogue.remove_unkept(&one).expect("removed"));
        assert!(!catalogue.remove_unkept(&two).expect("asked"));
        assert!(catalogue.untag("good").expect("untagged"));
        assert!(!catalogue.untag("good").expect("again"));
        assert!(catalogue.remove_unkept(&two).expect("removed"));
        assert!(!catalogue.tag(&two, "late").expect("asked"));
    }
}
