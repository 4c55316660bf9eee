//! The container's processes, looked at before CRIU stops them.

use std::collections::HashMap;

use super::unseizable::{self, Unseizable};
use crate::cli::Request;
use crate::commands::error::Error;
use crate::host::cgroup::Cgroup;
use crate::host::procfs::{Stat, descends, free_descriptors, stats_of};
use crate::output::report::Reporter;
use cedana_contract::pid::Pid;

/// Processes that CRIU could not stop.
pub(super) fn obstacles(init: Pid, cgroup: &Cgroup) -> Vec<Unseizable> {
    let stats = stats_of(&cgroup.processes());
    stats
        .iter()
        .filter_map(|(&pid, stat)| {
            let dumped = descends(pid, init, &stats);
            unseizable::check(pid, stat, cgroup.version(), dumped)
        })
        .collect()
}

/// Refuses a process without the two free descriptors that CRIU's code in it
/// opens: with one left, CRIU 4.2 can't open the second, and the process exits.
pub(super) fn refuse_full_tables(
    request: &Request,
    init: Pid,
    stats: &HashMap<Pid, Stat>,
) -> Result<(), Error> {
    let full = stats.iter().find(|&(&pid, _)| {
        descends(pid, init, stats) && free_descriptors(pid, 2).is_some_and(|free| free < 2)
    });
    match full {
        Some((&pid, stat)) => Err(Error::NoDescriptor {
            id: request.id.clone(),
            pid,
            name: stat.name.clone(),
        }),
        None => Ok(()),
    }
}

/// Warns of processes that CRIU leaves out.
pub(super) fn warn_of_foreign(
    request: &Request,
    init: Pid,
    stats: &HashMap<Pid, Stat>,
    reporter: &Reporter,
) {
    let mut foreign: Vec<_> = stats
        .iter()
        .filter(|&(&pid, _)| !descends(pid, init, stats))
        .map(|(&pid, stat)| (pid, stat.name.as_str()))
        .collect();
    if foreign.is_empty() || !stats.contains_key(&init) {
        return;
    }
    foreign.sort_unstable();
    let list: Vec<String> = foreign
        .iter()
        .map(|(pid, name)| format!("{pid} ({name})"))
        .collect();
    reporter.warning(&format!(
        "container {}: {} not started by its init (exec sessions) and not part of the checkpoint: {}",
        request.id,
        if list.len() == 1 { "a process was" } else { "processes were" },
        list.join(", ")
    ));
}
