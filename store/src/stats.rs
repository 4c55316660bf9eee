//! How much the store holds, and how much it saves.

use std::collections::HashSet;

use crate::chunk::PAGE;
use crate::error::file;
use crate::{Error, Store};

/// Figures of a store. Sizes are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// The checkpoints with memory in the store.
    pub checkpoints: u64,
    /// The memory of all of them.
    pub raw_bytes: u64,
    /// The memory that is kept: of chunks that checkpoints use, each once.
    pub unique_bytes: u64,
    /// The same as stored, without patches' common pages, compressed.
    pub stored_bytes: u64,
    /// What a collection would remove or compact.
    pub dead_bytes: u64,
    /// The files of all packs.
    pub pack_bytes: u64,
    /// Their number.
    pub packs: u64,
    /// The chunks.
    pub chunks: u64,
    /// Chunks that checkpoints need, and that are lost.
    pub lost_chunks: u64,
    /// What the file system has free for root.
    pub free_bytes: u64,
}

impl Stats {
    /// How many bytes of memory each stored byte holds; `None` if nothing is stored.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.raw_bytes as f64 / self.stored_bytes as f64)
    }
}

/// Computes the figures of a store.
///
/// # Errors
/// The catalogue can't be read.
pub fn stats(store: &Store) -> Result<Stats, Error> {
    let mut catalogue = store.catalogue()?;
    let mut stats = Stats::default();
    for row in catalogue.rows()? {
        if row.id.is_some() {
            stats.checkpoints += 1;
            stats.raw_bytes += row.raw_bytes;
        }
    }
    let live = catalogue.live(&HashSet::new())?;
    let packs = catalogue.packs()?;
    stats.packs = packs.len() as u64;
    stats.pack_bytes = packs.iter().map(|pack| pack.bytes).sum();
    stats.stored_bytes = catalogue.live_bytes(&live)?.values().sum();
    stats.dead_bytes = stats.pack_bytes.saturating_sub(stats.stored_bytes);
    catalogue.each_chunk(|number, pages| {
        stats.chunks += 1;
        if live.contains(number) {
            stats.unique_bytes += u64::from(pages) * PAGE as u64;
        }
    })?;
    stats.lost_chunks = catalogue.lost()?.len() as u64;
    let free = nix::sys::statvfs::statvfs(store.path());
    let free = free.map_err(|error| file("ask for the space of", store.path())(error.into()))?;
    stats.free_bytes = free.blocks_free() * free.fragment_size();
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, memory};

    #[test]
    fn what_two_checkpoints_share_counts_once() {
        let fixture = Fixture::new();
        assert_eq!(stats(&fixture.store).expect("stats").ratio(), None);
        let one = fixture.write("one", &memory(1..1000));
        let before = stats(&fixture.store).expect("stats");
        assert_eq!(before.unique_bytes, 999 * 4096);
        fixture.write("two", &one.raw);
        let after = stats(&fixture.store).expect("stats");
        assert_eq!(
            (after.checkpoints, after.raw_bytes),
            (2, 2 * before.raw_bytes)
        );
        assert_eq!(after.stored_bytes, before.stored_bytes);
        assert_eq!((after.unique_bytes, after.packs), (before.unique_bytes, 1));
        assert!(after.dead_bytes < 1000 && after.free_bytes > 0, "{after:?}");
        let ratio = after.ratio().expect("a ratio");
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        fixture.catalogue().remove(&one.id).expect("removed");
        assert!(stats(&fixture.store).expect("stats").dead_bytes < 1000);
    }
}
