//! Check: compares all that the store holds with what it must be, and repairs it.
//!
//! ```text
//! catalogue   SQLite's own check; references between rows
//! packs       the index of each against the catalogue; each chunk against its name
//! checkpoints whether the store has each one's chunks
//! ```
//!
//! A repair changes only what is damaged:
//!
//! - A damaged or lost catalogue is put aside as `catalogue.db.damaged-N`, and made again
//!   from the packs, the checkpoints that the caller has found, and what can still be read
//!   of the checkpoints of jobs. Chunks that none of these uses are kept by a row of their own until a person removes it.
//! - A damaged chunk is forgotten, so that the next checkpoint with the same memory stores
//!   it again, which mends the checkpoints that need it. The other chunks of its pack are
//!   moved to a new one.
//!
//! Memory that is lost is never replaced by anything: its checkpoints are named.

mod findings;
mod packs;
mod rebuild;

use std::collections::HashSet;
use std::path::PathBuf;

pub use findings::{Finding, Outcome};
pub use rebuild::FoundCheckpoint;

use crate::catalogue::{Catalogue, FILE, Salvaged};
use crate::collect::{compact, exclusive};
use crate::error::file;
use crate::pack::PackId;
use crate::{Error, Store};
use packs::Verified;

/// How far a check is, in bytes of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The bytes that were verified.
    pub done: u64,
    /// The bytes of all packs.
    pub total: u64,
}

/// How a check runs.
pub struct Options<'a> {
    /// What is damaged is repaired.
    pub repair: bool,
    /// The threads that verify packs.
    pub threads: usize,
    /// Told from time to time, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Finds the checkpoints whose memory is in the store, for a catalogue that is made
    /// again: also at these paths, which the damaged one still has.
    pub find_checkpoints: &'a dyn Fn(&[PathBuf]) -> Vec<FoundCheckpoint>,
}

/// Checks the store.
///
/// # Errors
/// It is in use, its catalogue is newer than this version, or a file can't be read.
pub fn check(store: &Store, options: &Options<'_>) -> Result<Outcome, Error> {
    let in_use = || Error::InUse {
        path: store.path().to_owned(),
    };
    let _collecting = store.collecting()?.ok_or_else(in_use)?;
    let mut outcome = Outcome::default();
    let mut catalogue = match examine(store)? {
        Ok(catalogue) => catalogue,
        Err(finding) => {
            outcome.findings.push(finding);
            if !options.repair {
                return Ok(outcome);
            }
            let salvaged = Salvaged::of(store.path());
            let found = (options.find_checkpoints)(&salvaged.paths);
            rebuild::rebuild(store, &found, &salvaged, &mut outcome)?;
            store.catalogue()?
        }
    };
    let verified = packs::verify(store, &mut catalogue, options)?;
    outcome.packs = verified.packs;
    outcome.chunks = verified.chunks;
    let is_damaged = !verified.damaged.is_empty();
    outcome.findings.extend(verified.findings.iter().cloned());
    if options.repair && is_damaged {
        repair(store, &mut catalogue, &verified, &mut outcome)?;
    }
    for (row, missing) in catalogue.damaged_rows()? {
        outcome.findings.push(Finding::Checkpoint {
            id: row.id,
            name: row.name,
            path: row.path,
            missing,
        });
    }
    if !options.repair {
        outcome.findings.extend(at_risk(&mut catalogue, &verified)?);
    }
    Ok(outcome)
}

/// The catalogue, unless it is damaged or lost.
fn examine(store: &Store) -> Result<Result<Catalogue, Finding>, Error> {
    let path = store.path().join(FILE);
    let listed = store.place().list();
    let listed = listed.map_err(file("list the packs of", store.path()))?;
    let packs: Vec<_> = listed
        .iter()
        .filter_map(|pack| Some((PackId::of_file(&pack.name)?, pack.since)))
        .collect();
    if !path.exists() && !packs.is_empty() {
        return Ok(Err(Finding::Catalogue {
            path,
            why: "it is not there, but packs are".to_owned(),
        }));
    }
    let examined = store.catalogue().and_then(|mut catalogue| {
        let wrong = catalogue.integrity()?;
        if let Some(first) = wrong.first() {
            let why = first.clone();
            return Err(Error::Damaged {
                path: path.clone(),
                why,
            });
        }
        let known: HashSet<PackId> = catalogue.packs()?.iter().map(|pack| pack.id).collect();
        let made = catalogue.made()?;
        let older = packs
            .iter()
            .filter(|(id, since)| *since < made && !known.contains(id));
        match older.count() {
            0 => Ok(catalogue),
            packs => Err(Error::Damaged {
                path: path.clone(),
                why: format!("{packs} packs are older than it, and it does not know them"),
            }),
        }
    });
    match examined {
        Ok(catalogue) => Ok(Ok(catalogue)),
        Err(Error::Damaged { path, why }) => Ok(Err(Finding::Catalogue { path, why })),
        Err(error) => Err(error),
    }
}

/// Forgets damaged chunks, and moves the others out of damaged packs.
fn repair(
    store: &Store,
    catalogue: &mut Catalogue,
    verified: &Verified,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let in_use = || Error::InUse {
        path: store.path().to_owned(),
    };
    {
        let _alone = exclusive::wait(store)?.ok_or_else(in_use)?;
        catalogue.lose(&verified.chunks_of_damage())?;
    }
    let live = catalogue.live(&HashSet::new())?;
    // A chunk that only a damaged one needed is removed like any other that is not used.
    catalogue.forget_lost(&live)?;
    let mut copy = compact::Copy::new(store)?;
    for pack in &verified.damaged {
        // A missing file has nothing to copy; its chunks are lost.
        if let Err(why) = copy.pack(store, catalogue, &pack.row, &live)? {
            log_unmoved(outcome, pack.row.id, why);
        }
    }
    let dead = catalogue.dead(&live)?;
    {
        let _alone = exclusive::wait(store)?.ok_or_else(in_use)?;
        // Others may use them by now; then they stay, in a damaged pack, until a later run.
        let live = catalogue.live(&HashSet::new())?;
        let dead: Vec<i64> = dead
            .into_iter()
            .filter(|chunk| !live.contains(*chunk))
            .collect();
        catalogue.forget(&dead)?;
    }
    let rows: Vec<_> = verified
        .damaged
        .iter()
        .map(|pack| pack.row.clone())
        .collect();
    let mut report = crate::collect::Report::default();
    if !compact::switch(store, catalogue, copy, &rows, &mut report)? {
        return Err(in_use());
    }
    outcome.repaired.push(format!(
        "{} damaged chunks were forgotten, and the others of their packs moved to new ones",
        verified.chunks_of_damage().len()
    ));
    Ok(())
}

fn log_unmoved(outcome: &mut Outcome, pack: PackId, why: String) {
    outcome.findings.push(Finding::Pack { pack, why });
}

/// The checkpoints that need a damaged chunk.
fn at_risk(catalogue: &mut Catalogue, verified: &Verified) -> Result<Vec<Finding>, Error> {
    let mut damaged: HashSet<i64> = verified.chunks_of_damage().into_iter().collect();
    if damaged.is_empty() {
        return Ok(Vec::new());
    }
    damaged.extend(catalogue.patches_on(&damaged)?);
    let needed = catalogue.chunks_of_rows()?;
    let rows = catalogue.rows()?;
    let mut findings = Vec::new();
    for (number, chunks) in needed {
        let chunks = chunks.unwrap_or_default();
        let missing = chunks
            .iter()
            .filter(|chunk| damaged.contains(chunk))
            .count();
        let row = rows.iter().find(|row| row.number == number);
        if let (1.., Some(row)) = (missing, row) {
            findings.push(Finding::Checkpoint {
                id: row.id.clone(),
                name: row.name.clone(),
                path: row.path.clone(),
                missing: missing as u64,
            });
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;
