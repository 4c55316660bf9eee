//! Writes packs again that are mostly unused, and joins small ones.
//!
//! The live chunks are copied while sessions and restores go on: packs don't change, and a
//! new pack that the catalogue doesn't know disturbs none of them. Then, alone, the
//! catalogue's chunks are switched in one transaction. A chunk that a session began to use
//! meanwhile stays in its old pack, which then stays, too. A frame is copied as it is,
//! after it was compared with its name. Lists still name the old packs: a restore that
//! finds none asks the catalogue.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::{Report, exclusive, sweep};
use crate::catalogue::{Catalogue, MovedChunk, Numbers, PackRow, StoredChunk};
use crate::chunk::{Name, PAGE, Pages};
use crate::pack::{Decoder, FULL, Frame, PackId};
use crate::place::Object;
use crate::session::drafts::Drafts;
use crate::{Error, Store};

/// A pack is written again if less than this part of it is live.
const LIVE_PART: (u64, u64) = (1, 2);

/// Packs below this size are joined, if there are as many as [`MANY`]: a restore opens
/// each pack of its checkpoint, and a series of checkpoints of one container adds a small
/// one each time.
const SMALL: u64 = FULL / 16;
const MANY: usize = 16;

/// The fewest bytes that compaction of a pack must free.
const MIN_GAIN: u64 = 64 << 10;

/// The live bytes that are copied before the catalogue is switched, which limits the time
/// for which sessions wait: a GiB has some 10,000 chunks.
const BATCH: u64 = 1 << 30;

/// The batches of one collection. The next one goes on.
const BATCHES: usize = 8;

/// Bytes of the buffer before a new pack.
const BUFFER: usize = 1 << 20;

/// Compacts packs until none needs it.
pub(super) fn compact(
    store: &Store,
    catalogue: &mut Catalogue,
    report: &mut Report,
) -> Result<(), Error> {
    // Packs that can't be compacted, because they are damaged or came into use.
    let mut left = HashSet::new();
    for _ in 0..BATCHES {
        let live = catalogue.live(&HashSet::new())?;
        let packs = choose(catalogue, &live, &left)?;
        if packs.is_empty() {
            return Ok(());
        }
        let mut copy = Copy::new(store)?;
        for pack in &packs {
            left.insert(pack.id);
            if let Err(damage) = copy.pack(store, catalogue, pack, &live)? {
                report.damaged.push(damage);
            }
        }
        if !switch(store, catalogue, copy, &packs, report)? {
            return Ok(());
        }
    }
    Ok(())
}

/// What compaction would free if only these chunks were live.
pub(super) fn estimate(
    catalogue: &mut Catalogue,
    live: &Numbers,
    report: &mut Report,
) -> Result<(), Error> {
    let bytes = catalogue.live_bytes(live)?;
    for pack in choose(catalogue, live, &HashSet::new())? {
        // The others are removed without a copy.
        if let Some(bytes) = bytes.get(&pack.number) {
            report.compacted += 1;
            report.freed_bytes += pack.bytes.saturating_sub(*bytes);
        }
    }
    Ok(())
}

fn sink(file: File, _: &Path) -> std::io::Result<Box<dyn crate::pack::Sink>> {
    Ok(Box::new(BufWriter::with_capacity(BUFFER, file)))
}

/// The packs of a batch.
fn choose(
    catalogue: &mut Catalogue,
    live: &Numbers,
    left: &HashSet<PackId>,
) -> Result<Vec<PackRow>, Error> {
    let bytes = catalogue.live_bytes(live)?;
    let live_of = |pack: &PackRow| bytes.get(&pack.number).copied().unwrap_or(0);
    let mut packs = catalogue.packs()?;
    packs.retain(|pack| !left.contains(&pack.id));
    let are_many = packs.iter().filter(|pack| pack.bytes < SMALL).count() >= MANY;
    packs.retain(|pack| {
        let is_unused = live_of(pack) * LIVE_PART.1 < pack.bytes * LIVE_PART.0;
        let is_small = are_many && pack.bytes < SMALL;
        (is_unused && pack.bytes - live_of(pack) > MIN_GAIN) || is_small
    });
    let mut sum = 0;
    packs.sort_by_key(live_of);
    packs.retain(|pack| {
        sum += live_of(pack);
        sum <= BATCH
    });
    Ok(packs)
}

/// The live chunks of packs, on their way to new ones.
pub(crate) struct Copy {
    pub(super) drafts: Drafts,
    decoder: Decoder,
    pub(super) moved: Vec<MovedChunk>,
}

impl Copy {
    pub(crate) fn new(store: &Store) -> Result<Self, Error> {
        Ok(Self {
            drafts: Drafts::new(store, None, 0, Box::new(sink))?,
            decoder: Decoder::default(),
            moved: Vec::new(),
        })
    }

    /// Copies the live chunks of a pack. What is damaged stays where it is, and the text
    /// says so.
    pub(crate) fn pack(
        &mut self,
        store: &Store,
        catalogue: &mut Catalogue,
        pack: &PackRow,
        live: &Numbers,
    ) -> Result<Result<(), String>, Error> {
        let mut chunks = catalogue.chunks_of(pack.number)?;
        chunks.retain(|chunk| live.contains(chunk.number));
        if chunks.is_empty() {
            return Ok(Ok(()));
        }
        let object = match store.place().open(&pack.id.file_name()) {
            Ok(object) => object,
            Err(error) => return Ok(Err(format!("pack {} can't be opened: {error}", pack.id))),
        };
        let mut result = Ok(());
        let mut frame = Vec::new();
        for chunk in chunks {
            match self.verify(store, catalogue, &*object, pack.id, &chunk, &mut frame)? {
                Ok((pages, base)) => {
                    let (to, offset) = self.drafts.add(chunk.name, base, &pages.0, &frame)?;
                    self.moved.push(MovedChunk {
                        number: chunk.number,
                        from: pack.number,
                        to,
                        offset,
                    });
                }
                Err(damage) => result = Err(damage),
            }
        }
        Ok(result)
    }

    /// Reads a frame, and compares what it decodes to with its name. Returns the digests
    /// of its pages, and its base.
    fn verify(
        &mut self,
        store: &Store,
        catalogue: &mut Catalogue,
        object: &dyn Object,
        pack: PackId,
        chunk: &StoredChunk,
        frame: &mut Vec<u8>,
    ) -> Result<Result<(Pages, Option<Name>), String>, Error> {
        let base = match chunk.base {
            Some(base) => catalogue.numbered(base)?,
            None => None,
        };
        let base_pack = match &base {
            Some(base) => match store.place().open(&base.pack.file_name()) {
                Ok(pack) => Some(pack),
                Err(error) => {
                    return Ok(Err(format!("pack {} can't be opened: {error}", base.pack)));
                }
            },
            None => None,
        };
        let base_frame = base
            .as_ref()
            .zip(base_pack.as_ref())
            .map(|(base, pack)| Frame {
                pack: &**pack,
                id: base.pack,
                offset: base.offset,
                stored: base.stored,
                name: base.name,
                pages: base.pages,
            });
        let own = Frame {
            pack: object,
            id: pack,
            offset: chunk.offset,
            stored: chunk.stored,
            name: chunk.name,
            pages: chunk.pages,
        };
        let mut raw = vec![0; chunk.pages as usize * PAGE];
        if let Err(fault) = self.decoder.decode(&own, base_frame.as_ref(), &mut raw) {
            return Ok(Err(fault.to_string()));
        }
        frame.resize(chunk.stored as usize, 0);
        match object.read_exact_at(frame, chunk.offset) {
            Ok(()) => Ok(Ok((Pages::of(&raw), base.map(|base| base.name)))),
            Err(error) => Ok(Err(format!("pack {pack} can't be read: {error}"))),
        }
    }
}

/// Makes the copies the chunks of the catalogue, and removes the packs that have none any
/// more. Returns false if the store is in use: the copies are removed then.
pub(crate) fn switch(
    store: &Store,
    catalogue: &mut Catalogue,
    mut copy: Copy,
    old: &[PackRow],
    report: &mut Report,
) -> Result<bool, Error> {
    copy.drafts.end()?;
    // Synced before others are kept out.
    let packs = copy.drafts.publish(store)?;
    let Some(_alone) = exclusive::wait(store)? else {
        report.is_busy = true;
        return Ok(false);
    };
    // After a failure it is not certain whether the catalogue refers to them. If it does
    // not, a later collection removes them.
    copy.drafts.keep();
    catalogue.move_chunks(&packs, &copy.moved)?;
    let written: u64 = packs.iter().map(|pack| pack.bytes).sum();
    let mut removed = Report::default();
    sweep::empty_packs(store, catalogue, &mut removed)?;
    // A pack can only have come to be empty by this.
    report.compacted += removed.packs.min(old.len() as u64);
    report.freed_bytes = (report.freed_bytes + removed.freed_bytes).saturating_sub(written);
    Ok(true)
}
