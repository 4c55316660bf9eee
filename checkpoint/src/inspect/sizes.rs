//! The sizes and the cost of a checkpoint.

use std::collections::BTreeMap;

use cedana_store::list::SUFFIX;
use serde::Serialize;

use crate::format::{manifest, streams};
use crate::images::dir::{Dir, number};
use crate::images::proto::Stats;
use crate::images::{Error, Images};

/// The sizes of a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Number of regular files.
    pub files: u64,
    /// Bytes that CRIU and the runtime wrote.
    pub raw_bytes: u64,
    /// Bytes of the files as stored.
    pub stored_bytes: u64,
    /// The part of `raw_bytes` that is memory.
    pub memory_raw_bytes: u64,
    /// The part of `stored_bytes` that is memory.
    pub memory_stored_bytes: u64,
}

/// The cost of a dump, from CRIU's statistics. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DumpCost {
    /// Time until all processes were frozen.
    pub freezing_us: u32,
    /// Time for which they were frozen.
    pub frozen_us: u32,
    /// The part of that time in which their memory was dumped.
    pub memory_dump_us: u32,
    /// Time in which memory was written.
    pub memory_write_us: u32,
    /// Pages that were scanned.
    pub pages_scanned: u64,
    /// Pages that were not written because the parent checkpoint has them.
    pub pages_skipped_parent: u64,
    /// Pages that were written, shared memory included.
    pub pages_written: u64,
}

/// The sizes of a directory. `pages` has the raw bytes of each pages file, which differ
/// from the size of a compressed one and of a list of chunks. `packed` has the bytes of the images in the archive
/// of connections.
pub(super) fn of(
    listing: &[(String, u64)],
    pages: &BTreeMap<u32, u64>,
    packed: Option<u64>,
) -> Sizes {
    let mut sizes = Sizes::default();
    for (name, size) in listing {
        sizes.files += 1;
        sizes.stored_bytes = sizes.stored_bytes.saturating_add(*size);
        let plain = [".zst", SUFFIX]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let plain = plain.unwrap_or(name);
        let raw = match number::<u32>(plain, "pages-") {
            Some(id) => {
                let raw = match pages.get(&id) {
                    Some(raw) if plain != name => *raw,
                    _ => *size,
                };
                sizes.memory_raw_bytes = sizes.memory_raw_bytes.saturating_add(raw);
                sizes.memory_stored_bytes = sizes.memory_stored_bytes.saturating_add(*size);
                raw
            }
            // A file of our own, which CRIU and the runtime did not write.
            None if name == manifest::NAME || name.ends_with(".img.table") => 0,
            None if name == streams::NAME => packed.unwrap_or(*size),
            None => *size,
        };
        sizes.raw_bytes = sizes.raw_bytes.saturating_add(raw);
    }
    sizes
}

/// The statistics that CRIU writes to its work directory, which is the checkpoint's
/// directory unless the caller named another.
pub(super) fn dump_cost<I: Images + ?Sized>(dir: &Dir<'_, I>) -> Result<Option<DumpCost>, Error> {
    let stats = dir.first::<Stats>("stats-dump")?;
    Ok(stats.and_then(|stats| stats.dump).map(|dump| DumpCost {
        freezing_us: dump.freezing_time,
        frozen_us: dump.frozen_time,
        memory_dump_us: dump.memdump_time,
        memory_write_us: dump.memwrite_time,
        pages_scanned: dump.pages_scanned,
        pages_skipped_parent: dump.pages_skipped_parent,
        pages_written: dump
            .pages_written
            .saturating_add(dump.shpages_written.unwrap_or_default()),
    }))
}
