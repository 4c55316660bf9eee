//! A checkpoint as text for people.
//!
//! The texts in a checkpoint were written by the container's processes, so
//! [`printable`] escapes their control characters.
//!
//! ```text
//! summary    origin, sizes and cost
//! processes  the tree of processes
//! memory     memory by process, shared memory
//! files      open files
//! sockets    sockets
//! cells      cells of the tables
//! ```

mod cells;
mod files;
mod memory;
mod processes;
mod sockets;
mod summary;

use std::fmt::Write;
use std::path::Path;

use cedana_checkpoint::inspect::{Inspection, Namespace};

use super::table::Align::{Left, Right};
use super::table::Table;
use crate::output::printable::printable;
use files::open_files;
use memory::{memory, shared_memory};
use processes::processes;
use sockets::sockets;
use summary::summary;

pub(super) fn render(dir: &Path, found: &Inspection) -> String {
    let mut text = String::new();
    summary(&mut text, dir, found);
    let sections = [
        (
            format!("Processes ({})", found.processes.len()),
            processes(&found.processes),
        ),
        (
            "Memory, by process and its largest mappings".to_owned(),
            memory(&found.processes),
        ),
        ("Shared memory".to_owned(), shared_memory(found)),
        ("Open files".to_owned(), open_files(found)),
        (format!("Sockets ({})", found.sockets.len()), sockets(found)),
        (format!("Mounts ({})", found.mounts.len()), mounts(found)),
        ("Namespaces".to_owned(), namespaces(&found.namespaces)),
    ];
    for (title, table) in sections {
        let mut body = String::new();
        table.write(&mut body);
        if !body.is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = write!(text, "\n{title}\n{body}");
        }
    }
    text
}

fn mounts(found: &Inspection) -> Table {
    let mut table = Table::new(&[
        ("MOUNTPOINT", Left),
        ("TYPE", Left),
        ("SOURCE", Left),
        ("ROOT", Left),
        ("EXTERNAL", Left),
    ]);
    for mount in &found.mounts {
        table.row([
            printable(&mount.mountpoint),
            printable(&mount.fstype),
            printable(&mount.source),
            printable(&mount.root),
            printable(mount.external.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn namespaces(namespaces: &[Namespace]) -> Table {
    let mut table = Table::new(&[("KIND", Left), ("ID", Right), ("WHERE FROM", Left)]);
    for namespace in namespaces {
        let from = match (&namespace.external, namespace.host) {
            (Some(key), _) => format!("external, given as {key}"),
            (None, true) => "the host's".to_owned(),
            (None, false) => "the checkpoint".to_owned(),
        };
        table.row([
            format!("{:?}", namespace.kind).to_lowercase(),
            namespace.id.to_string(),
            printable(&from),
        ]);
    }
    table
}
