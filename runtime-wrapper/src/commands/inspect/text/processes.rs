//! The tree of processes.

use std::collections::BTreeMap;

use cedana_checkpoint::inspect::{Process, ProcessState};

use super::super::table::Align::{Left, Right};
use super::super::table::Table;
use super::cells::{absent, in_image};
use crate::output::printable::printable;
use crate::output::units::bytes;

pub(super) fn processes(processes: &[Process]) -> Table {
    let mut table = Table::new(&[
        ("PID", Right),
        ("PPID", Right),
        ("UID", Right),
        ("STATE", Left),
        ("THREADS", Right),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("COMMAND", Left),
    ]);
    for (process, depth) in tree(processes) {
        let total = process.memory.as_ref().map(|memory| memory.total);
        table.row([
            process.pid.to_string(),
            process.ppid.to_string(),
            process.uid.map_or_else(absent, |uid| uid.to_string()),
            match process.state {
                ProcessState::Running => "running",
                ProcessState::Stopped => "stopped",
                ProcessState::Zombie => "zombie",
                ProcessState::Unknown => "unknown",
            }
            .to_owned(),
            process.threads.len().to_string(),
            total.map_or_else(absent, |total| bytes(total.mapped_bytes)),
            total.map_or_else(absent, in_image),
            format!("{}{}", "  ".repeat(depth), command(process)),
        ]);
    }
    table
}

/// The processes with their depth in the tree, children below their parents. A
/// process is a root if its parent is missing or its ancestors form a loop.
fn tree(processes: &[Process]) -> Vec<(&Process, usize)> {
    const DEEPEST: usize = 32;
    let parents: BTreeMap<u32, u32> = processes
        .iter()
        .map(|process| (process.pid, process.ppid))
        .collect();
    processes
        .iter()
        .map(|process| {
            let mut pid = process.ppid;
            let mut depth = 0;
            while let Some(parent) = parents.get(&pid)
                && depth < DEEPEST
            {
                depth += 1;
                pid = *parent;
            }
            (process, depth)
        })
        .collect()
}

fn command(process: &Process) -> String {
    let executable = process
        .executable
        .as_ref()
        .map(|path| format!(" ({path})"))
        .unwrap_or_default();
    printable(&format!("{}{executable}", process.comm))
}
