//! Verifies packs, on several threads.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use super::{Finding, Options, Progress};
use crate::catalogue::{Catalogue, Located, PackRow, StoredChunk};
use crate::chunk::PAGE;
use crate::pack::{Decoder, Fault, Frame, Index, PackId};
use crate::place::Object;
use crate::{Error, Store};

/// What was found in the packs of the catalogue.
#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) packs: u64,
    pub(super) chunks: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) damaged: Vec<DamagedPack>,
}

/// A pack that must be written again.
#[derive(Debug)]
pub(super) struct DamagedPack {
    pub(super) row: PackRow,
    /// The numbers of its damaged chunks.
    chunks: Vec<i64>,
}

impl Verified {
    /// The numbers of all damaged chunks.
    pub(super) fn chunks_of_damage(&self) -> Vec<i64> {
        let chunks = self.damaged.iter().flat_map(|pack| &pack.chunks);
        chunks.copied().collect()
    }
}

/// Verifies all packs. Sessions and restores go on meanwhile; no collection runs.
pub(super) fn verify(
    store: &Store,
    catalogue: &mut Catalogue,
    options: &Options<'_>,
) -> Result<Verified, Error> {
    let packs = catalogue.packs()?;
    let total = packs.iter().map(|pack| pack.bytes).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let all = Mutex::new(Verified::default());
    let work = || -> Result<(), Error> {
        let mut verifier = Verifier {
            store,
            catalogue: store.catalogue()?,
            decoder: Decoder::default(),
            raw: Vec::new(),
            base: None,
        };
        while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut found = Verified::default();
            verifier.pack(pack, &mut found)?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.packs += 1;
            all.chunks += found.chunks;
            all.findings.extend(found.findings);
            all.damaged.extend(found.damaged);
            let done = done.fetch_add(pack.bytes, Ordering::Relaxed) + pack.bytes;
            (options.progress)(Progress { done, total });
        }
        Ok(())
    };
    let threads = options.threads.clamp(1, packs.len().max(1));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Result<Vec<()>, Error>>()
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One thread.
struct Verifier<'a> {
    store: &'a Store,
    catalogue: Catalogue,
    decoder: Decoder,
    raw: Vec<u8>,
    /// The pack of the last base.
    base: Option<(PackId, Box<dyn Object>)>,
}

impl Verifier<'_> {
    fn pack(&mut self, pack: &PackRow, found: &mut Verified) -> Result<(), Error> {
        let wrong = |why: String| Finding::Pack { pack: pack.id, why };
        let chunks = self.catalogue.chunks_of(pack.number)?;
        let mut damage = DamagedPack {
            row: pack.clone(),
            chunks: Vec::new(),
        };
        let object = match self.store.place().open(&pack.id.file_name()) {
            Ok(object) => object,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                found.findings.push(wrong("its file is missing".to_owned()));
                damage.chunks = chunks.iter().map(|chunk| chunk.number).collect();
                found.damaged.push(damage);
                return Ok(());
            }
            // It may be readable at another time: nothing is forgotten.
            Err(error) => {
                found
                    .findings
                    .push(wrong(format!("it can't be opened: {error}")));
                return Ok(());
            }
        };
        let mut is_damaged = false;
        match self.end(&*object, pack, &chunks) {
            Ok(()) => {}
            Err(Wrong::Unreadable(why)) => {
                found.findings.push(wrong(why));
                return Ok(());
            }
            Err(Wrong::Damaged(why)) => {
                is_damaged = true;
                found.findings.push(wrong(why));
            }
        }
        for chunk in &chunks {
            found.chunks += 1;
            match self.chunk(&*object, pack.id, chunk)? {
                Ok(()) => {}
                Err(fault) => {
                    if let Fault::Damaged { name, .. } = &fault {
                        // A base in another pack is found there.
                        if *name == chunk.name {
                            damage.chunks.push(chunk.number);
                            is_damaged = true;
                        }
                    }
                    found.findings.push(Finding::Chunk {
                        name: chunk.name,
                        why: fault.to_string(),
                    });
                }
            }
        }
        if is_damaged {
            found.damaged.push(damage);
        }
        Ok(())
    }

    /// Compares the end of a pack with the catalogue.
    fn end(
        &mut self,
        object: &dyn Object,
        pack: &PackRow,
        chunks: &[StoredChunk],
    ) -> Result<(), Wrong> {
        let length = object.length().map_err(unreadable)?;
        if length != pack.bytes {
            let expected = pack.bytes;
            return Err(Wrong::Damaged(format!(
                "it has {length} bytes instead of {expected}"
            )));
        }
        let index = Index::read(object).map_err(|error| match error.kind() {
            ErrorKind::Other | ErrorKind::UnexpectedEof => {
                Wrong::Damaged(format!("its end is damaged: {error}"))
            }
            _ => unreadable(error),
        })?;
        if digest(object, &index).map_err(unreadable)?[..] != pack.digest {
            return Err(Wrong::Damaged(
                "its end is not the one that was written".to_owned(),
            ));
        }
        for chunk in chunks {
            let entry = index
                .entries
                .binary_search_by_key(&chunk.offset, |entry| entry.offset);
            let is_same = entry.is_ok_and(|entry| {
                let entry = &index.entries[entry];
                (entry.name, entry.stored, entry.pages) == (chunk.name, chunk.stored, chunk.pages)
                    && entry.base.is_some() == chunk.base.is_some()
            });
            if !is_same {
                return Err(Wrong::Damaged(format!(
                    "the catalogue has chunk {} at byte {}, and the pack has another one there",
                    chunk.name, chunk.offset
                )));
            }
        }
        Ok(())
    }

    /// Decodes a chunk, and compares it with its name.
    fn chunk(
        &mut self,
        object: &dyn Object,
        pack: PackId,
        chunk: &StoredChunk,
    ) -> Result<Result<(), Fault>, Error> {
        let base = match chunk.base {
            Some(base) => self.catalogue.numbered(base)?,
            None => None,
        };
        if let Some(base) = &base
            && let Err(source) = self.open_base(base)
        {
            return Ok(Err(Fault::Read {
                pack: base.pack,
                source,
            }));
        }
        let frame = Frame {
            pack: object,
            id: pack,
            offset: chunk.offset,
            stored: chunk.stored,
            name: chunk.name,
            pages: chunk.pages,
        };
        let base = base.as_ref().zip(self.base.as_ref());
        let base = base.map(|(base, (id, pack))| Frame {
            pack: &**pack,
            id: *id,
            offset: base.offset,
            stored: base.stored,
            name: base.name,
            pages: base.pages,
        });
        self.raw.resize(chunk.pages as usize * PAGE, 0);
        Ok(self.decoder.decode(&frame, base.as_ref(), &mut self.raw))
    }

    fn open_base(&mut self, base: &Located) -> std::io::Result<()> {
        if self.base.as_ref().is_none_or(|(id, _)| *id != base.pack) {
            let object = self.store.place().open(&base.pack.file_name())?;
            self.base = Some((base.pack, object));
        }
        Ok(())
    }
}

/// What is wrong with the end of a pack.
enum Wrong {
    /// The disk fails; the bytes may be good.
    Unreadable(String),
    Damaged(String),
}

fn unreadable(error: std::io::Error) -> Wrong {
    Wrong::Unreadable(format!("it can't be read: {error}"))
}

/// The digest of the end of a pack.
pub(super) fn digest(pack: &dyn Object, index: &Index) -> std::io::Result<[u8; 32]> {
    let start = index.stored_bytes();
    let length = pack.length()?.saturating_sub(start);
    let mut end = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    pack.read_exact_at(&mut end, start)?;
    Ok(*blake3::hash(&end).as_bytes())
}
