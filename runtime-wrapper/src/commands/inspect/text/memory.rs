//! Memory of the processes, and shared memory.

use cedana_checkpoint::inspect::{Inspection, MappingKind, Memory, Process, Share};

use super::super::table::Align::{Left, Right};
use super::super::table::Table;
use super::cells::{absent, in_image};
use crate::output::printable::printable;
use crate::output::units::bytes;

/// The number of mappings shown for each process.
const MAPPINGS: usize = 5;

pub(super) fn memory(processes: &[Process]) -> Table {
    let mut table = Table::new(&[
        ("PID", Right),
        ("WHAT", Left),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("ADDRESS", Left),
        ("PATH", Left),
    ]);
    for process in processes {
        let Some(memory) = &process.memory else {
            continue;
        };
        let pid = process.pid.to_string();
        let mut row = |what: &str, share: Share, address: String, path: &str| {
            table.row([
                pid.clone(),
                what.to_owned(),
                bytes(share.mapped_bytes),
                in_image(share),
                address,
                printable(path),
            ]);
        };
        for (what, share) in parts(memory) {
            if share.mapped_bytes > 0 {
                row(what, share, String::new(), "");
            }
        }
        for mapping in memory.largest.iter().take(MAPPINGS) {
            row(
                &format!("  {} {}", mapping.access, mapping_kind(mapping.kind)),
                mapping.share,
                format!("{:x}", mapping.start),
                mapping.path.as_deref().unwrap_or_default(),
            );
        }
    }
    table
}

fn parts(memory: &Memory) -> [(&'static str, Share); 5] {
    [
        ("total", memory.total),
        ("anonymous", memory.anonymous),
        ("file", memory.file),
        ("shared", memory.shared),
        ("other", memory.other),
    ]
}

fn mapping_kind(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::Heap => "heap",
        MappingKind::Stack => "stack",
        MappingKind::Anonymous => "anonymous",
        MappingKind::File => "file",
        MappingKind::SharedFile => "shared file",
        MappingKind::SharedAnonymous => "shared memory",
        MappingKind::Memfd => "memory file",
        MappingKind::SysvShm => "System V shm",
        MappingKind::AioRing => "AIO ring",
        MappingKind::Socket => "socket",
        MappingKind::Vdso => "vdso",
        MappingKind::Vvar => "vvar",
        MappingKind::Vsyscall => "vsyscall",
        MappingKind::Uprobes => "uprobes",
        MappingKind::Other => "other",
    }
}

pub(super) fn shared_memory(found: &Inspection) -> Table {
    let mut table = Table::new(&[
        ("ID", Right),
        ("MAPPED", Right),
        ("IN IMAGE", Right),
        ("PIDS", Left),
        ("NAME", Left),
    ]);
    for segment in &found.shared_memory {
        let pids: Vec<String> = segment.pids.iter().map(u32::to_string).collect();
        table.row([
            segment.id.to_string(),
            bytes(segment.share.mapped_bytes),
            in_image(segment.share),
            if pids.is_empty() {
                absent()
            } else {
                pids.join(",")
            },
            printable(segment.name.as_deref().unwrap_or_default()),
        ]);
    }
    table
}
