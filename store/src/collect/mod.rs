//! Collection: removes what no checkpoint needs.
//!
//! ```text
//! rows     a checkpoint whose directory is gone is removed from the catalogue, after the
//!          grace time                                           beside everything else
//! sweep    chunks that no checkpoint uses, packs without chunks, drafts of writers that
//!          were killed, packs that the catalogue does not know          alone, in slices
//! compact  the chunks of packs that are mostly unused go to new packs          copied
//!          beside everything else, then switched and the old packs removed    alone
//! ```
//!
//! Alone means: no session and no restore that opens its packs has the store's lock
//! ([`Store::sweep`]). A session may refer to any chunk of the catalogue, so what was
//! found to be unused is looked at again after each time that others could have the lock.
//!
//! Killed at any point, a collection leaves chunks or packs that the next one removes: a
//! chunk leaves the catalogue before its pack is removed, and a new pack is in its place
//! before the catalogue refers to it.

pub(crate) mod compact;
pub(crate) mod exclusive;
mod report;
mod rows;
mod sweep;

use std::time::Duration;

pub use report::{RemovedCheckpoint, Report};

use crate::catalogue::CheckpointRow;
use crate::clock::Moment;
use crate::{Error, Store};

/// Whether anything refers to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// Its directory, archive or image was found.
    Referenced,
    /// It was looked for, and is not there.
    Gone,
    /// It could not be looked for, and why. The checkpoint is kept.
    Unknown(String),
}

/// Looks for the directories, archives and images that refer to checkpoints.
pub trait References {
    /// Looks for one checkpoint.
    fn state(&mut self, row: &CheckpointRow) -> Reference;
}

impl<F: FnMut(&CheckpointRow) -> Reference> References for F {
    fn state(&mut self, row: &CheckpointRow) -> Reference {
        self(row)
    }
}

/// How a collection runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a checkpoint is kept after it was last referred to.
    pub grace: Duration,
    /// Reports what would be removed, and changes nothing.
    pub dry_run: bool,
}

/// Removes what no checkpoint needs.
///
/// # Errors
/// The catalogue is damaged or newer, or a file can't be removed. What was removed before
/// is removed.
pub fn collect(
    store: &Store,
    references: &mut dyn References,
    options: Options,
) -> Result<Report, Error> {
    collect_at(store, references, options, &Moment::now())
}

fn collect_at(
    store: &Store,
    references: &mut dyn References,
    options: Options,
    now: &Moment,
) -> Result<Report, Error> {
    let mut report = Report {
        is_dry_run: options.dry_run,
        ..Report::default()
    };
    let mut catalogue = store.catalogue()?;
    if options.dry_run {
        let gone = rows::find(&mut catalogue, references, options.grace, now, &mut report)?.gone;
        sweep::estimate(
            store,
            &mut catalogue,
            &gone,
            options.grace,
            now,
            &mut report,
        )?;
        return Ok(report);
    }
    let Some(_collecting) = store.collecting()? else {
        report.is_busy = true;
        return Ok(report);
    };
    rows::remove(&mut catalogue, references, options.grace, now, &mut report)?;
    if sweep::sweep(store, &mut catalogue, options.grace, now, &mut report)? {
        compact::compact(store, &mut catalogue, &mut report)?;
    }
    Ok(report)
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
