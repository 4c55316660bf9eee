//! How large a checkpoint is, and what it took.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Dir;
use crate::format::manifest;
use crate::images::Error;
use crate::images::dir::number;
use crate::images::proto::Stats;

/// How large a checkpoint is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Regular files.
    pub files: u64,
    /// Bytes that CRIU and the runtime wrote.
    pub raw_bytes: u64,
    /// Bytes that the files have as they are stored.
    pub stored_bytes: u64,
    /// Of `raw_bytes`: memory.
    pub memory_raw_bytes: u64,
    /// Of `stored_bytes`: memory.
    pub memory_stored_bytes: u64,
}

/// What CRIU's statistics say of a dump. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DumpCost {
    /// Until all processes stood still.
    pub freezing_us: u32,
    /// For how long they stood still.
    pub frozen_us: u32,
    /// Of that: for how long their memory was taken.
    pub memory_dump_us: u32,
    /// For how long memory was written.
    pub memory_write_us: u32,
    /// Pages that were looked at.
    pub pages_scanned: u64,
    /// Pages that did not change since the checkpoint that this one builds upon.
    pub pages_skipped_parent: u64,
    /// Pages that were written, those of shared memory among them.
    pub pages_written: u64,
}

/// Sums up a directory. `pages` has the bytes of each pages file as CRIU wrote
/// it, which a compressed one doesn't show.
pub(super) fn of(listing: &[(String, u64)], pages: &BTreeMap<u32, u64>) -> Sizes {
    let mut sizes = Sizes::default();
    for (name, size) in listing {
        sizes.files += 1;
        sizes.stored_bytes = sizes.stored_bytes.saturating_add(*size);
        let plain = name.strip_suffix(".zst").unwrap_or(name);
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
            // Ours, beside what was there.
            None if name == manifest::NAME || name.ends_with(".img.table") => 0,
            None => *size,
        };
        sizes.raw_bytes = sizes.raw_bytes.saturating_add(raw);
    }
    sizes
}

/// The statistics that CRIU leaves in its working directory, which is the
/// checkpoint's unless the caller named another.
pub(super) fn dump_cost(dir: &Dir<'_>) -> Result<Option<DumpCost>, Error> {
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
