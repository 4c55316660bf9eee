//! `checkpoint --check`: what would stop a checkpoint, as far as it shows without
//! freezing the container.

use std::process::ExitCode;

use super::prepared::Prepared;
use super::{prechecks, unrestorable};
use crate::cli::Request;
use crate::commands::error::Error;
use crate::host::child::Signals;
use crate::host::procfs::stats_of;
use crate::output::printable::{printable, to_stdout};
use crate::output::report::Reporter;

/// Prints one reason a line; nothing if none is known. Warnings are on stderr.
pub(super) fn run(
    request: &Request,
    reporter: &Reporter,
    signals: &Signals,
) -> Result<ExitCode, Error> {
    let prepared = Prepared::read(request, reporter, signals)?;
    let init = prepared.container.init;
    let stats = stats_of(&prepared.processes());
    prechecks::warn_of_foreign(request, init, &stats, reporter);
    let mut found: Vec<String> = Vec::new();
    if let Err(error) = prechecks::refuse_full_tables(request, init, &stats) {
        found.push(error.to_string());
    }
    let doubts = unrestorable::doubts(&prepared, &stats);
    found.extend(doubts.iter().map(|doubt| {
        format!("{doubt}; until then a checkpoint that ends the container is refused, since it could not be restored")
    }));
    if let Some(cgroup) = &prepared.cgroup {
        let obstacles = prechecks::obstacles(init, cgroup);
        found.extend(obstacles.iter().map(ToString::to_string));
    }
    for reason in found {
        to_stdout(&format!("{}\n", printable(&reason.replace('\n', "; "))));
    }
    Ok(ExitCode::SUCCESS)
}
