//! The checkpoints that are gone.

use std::collections::HashSet;
use std::time::Duration;

use super::{Reference, References, RemovedCheckpoint, Report};
use crate::Error;
use crate::catalogue::{Catalogue, CheckpointRow};
use crate::clock::Moment;

/// What was found about the checkpoints of the catalogue.
pub(super) struct Found {
    /// The numbers of those that something refers to.
    referenced: Vec<i64>,
    /// Those that are removed.
    pub(super) gone: Vec<CheckpointRow>,
}

/// Looks for references to each checkpoint.
pub(super) fn find(
    catalogue: &mut Catalogue,
    references: &mut dyn References,
    grace: Duration,
    now: &Moment,
    report: &mut Report,
) -> Result<Found, Error> {
    let mut found = Found {
        referenced: Vec::new(),
        gone: Vec::new(),
    };
    for row in catalogue.rows()? {
        // A job's checkpoint that holds its memory itself.
        if row.job.is_some() && row.id.is_none() {
            continue;
        }
        report.checkpoints += 1;
        match references.state(&row) {
            Reference::Referenced => {
                report.referenced += 1;
                found.referenced.push(row.number);
            }
            Reference::Unknown(why) => report.unknown.push((row.path, why)),
            // A pin or a tag is a reference, but says nothing about the directory.
            Reference::Gone if row.is_kept => {}
            // The daemon removes it with its job.
            Reference::Gone if row.job.is_some() => {}
            Reference::Gone if row.unseen(now) <= grace => report.in_grace += 1,
            Reference::Gone => found.gone.push(row),
        }
    }
    if report.is_dry_run {
        let removed = found.gone.iter().map(RemovedCheckpoint::of);
        report.removed.extend(removed);
    }
    Ok(found)
}

/// Removes the checkpoints that are gone.
pub(super) fn remove(
    catalogue: &mut Catalogue,
    references: &mut dyn References,
    grace: Duration,
    now: &Moment,
    report: &mut Report,
) -> Result<(), Error> {
    let found = find(catalogue, references, grace, now, report)?;
    if !found.referenced.is_empty() {
        catalogue.set_seen(&found.referenced, now)?;
    }
    for row in &found.gone {
        if catalogue.remove_row(row)? {
            report.removed.push(RemovedCheckpoint::of(row));
        }
    }
    Ok(())
}

/// The numbers of rows.
pub(super) fn numbers(rows: &[CheckpointRow]) -> HashSet<i64> {
    rows.iter().map(|row| row.number).collect()
}
