//! Pagemaps: the pages of processes and of shared memory.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::images::dir::{Dir, number};
use crate::images::frame::{Fault, Records};
use crate::images::proto::{Mm, PagemapHead, PagemapRun};
use crate::images::{Error, Images};

/// The size of a part of a process's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Address space.
    pub mapped_bytes: u64,
    /// Memory that is in this checkpoint.
    pub image_bytes: u64,
    /// Memory that is in the parent checkpoint.
    pub parent_bytes: u64,
}

/// A segment of memory without a file that several processes may map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedMemory {
    /// CRIU's number for it.
    pub id: u64,
    /// The name of a memory file.
    pub name: Option<String>,
    /// Its size; `mapped_bytes` is that of its longest mapping.
    #[serde(flatten)]
    pub share: Share,
    /// The processes that map it.
    pub pids: Vec<u32>,
}

/// The content of all pagemaps.
#[derive(Debug)]
pub(in crate::inspect) struct Pages {
    /// Bytes per page on the machine that the checkpoint was taken on.
    size: u64,
    /// Bytes that each pages file must have, by its number.
    pub(in crate::inspect) files: BTreeMap<u32, u64>,
    /// Shared memory by CRIU's number for it.
    pub(in crate::inspect) shared: BTreeMap<u64, SharedMemory>,
}

/// A run of pages, in bytes.
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) present: bool,
    pub(super) in_parent: bool,
}

impl Pages {
    /// Reads the pagemaps of shared memory. Those of processes are read with each process.
    pub(in crate::inspect) fn read<I: Images + ?Sized>(
        dir: &Dir<'_, I>,
        listing: &[(String, u64)],
    ) -> Result<Self, Error> {
        let mut pages = Self {
            size: page_size(dir, listing)?,
            files: BTreeMap::new(),
            shared: BTreeMap::new(),
        };
        for (name, _) in listing {
            let Some(id) = number(name, "pagemap-shmem-") else {
                continue;
            };
            let mut share = Share::default();
            pages.walk(dir, name, |run| share.add(run.length, &run))?;
            let segment = SharedMemory {
                id,
                name: None,
                share,
                pids: Vec::new(),
            };
            pages.shared.insert(id, segment);
        }
        Ok(pages)
    }

    pub(super) fn walk<I: Images + ?Sized>(
        &mut self,
        dir: &Dir<'_, I>,
        image: &str,
        mut each: impl FnMut(Run),
    ) -> Result<(), Error> {
        let size = self.size;
        let read = |records: &mut Records| {
            let head: PagemapHead = records.next_message()?.ok_or(Fault::Truncated)?;
            let mut bytes = 0u64;
            while let Some(run) = records.next_message::<PagemapRun>()? {
                let run = Run {
                    start: run.vaddr,
                    length: run.pages().saturating_mul(size),
                    present: run.is_present(),
                    in_parent: run.is_in_parent(),
                };
                if run.present {
                    bytes = bytes.saturating_add(run.length);
                }
                each(run);
            }
            Ok((head.pages_id, bytes))
        };
        if let Some((id, bytes)) = dir.open(image, read)? {
            let file = self.files.entry(id).or_default();
            *file = file.saturating_add(bytes);
        }
        Ok(())
    }
}

/// The page size, from a program's auxiliary vector, because no other image has it.
fn page_size<I: Images + ?Sized>(
    dir: &Dir<'_, I>,
    listing: &[(String, u64)],
) -> Result<u64, Error> {
    const AT_PAGESZ: u64 = 6;
    const USUAL: u64 = 4096;
    let Some((name, _)) = listing
        .iter()
        .find(|(name, _)| number::<u32>(name, "mm-").is_some())
    else {
        return Ok(USUAL);
    };
    let auxv = dir.first::<Mm>(name)?.unwrap_or_default().saved_auxv;
    let (pairs, _) = auxv.as_chunks::<2>();
    let told = pairs.iter().find(|[key, _]| *key == AT_PAGESZ);
    Ok(match told {
        Some([_, size]) if size.is_power_of_two() && (USUAL..=1 << 16).contains(size) => *size,
        _ => USUAL,
    })
}

impl Share {
    pub(super) fn add(&mut self, bytes: u64, run: &Run) {
        if run.present {
            self.image_bytes = self.image_bytes.saturating_add(bytes);
        } else if run.in_parent {
            self.parent_bytes = self.parent_bytes.saturating_add(bytes);
        }
    }

    pub(super) fn plus(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.mapped_bytes, other.mapped_bytes),
            (&mut self.image_bytes, other.image_bytes),
            (&mut self.parent_bytes, other.parent_bytes),
        ] {
            *to = to.saturating_add(from);
        }
    }
}

impl SharedMemory {
    pub(super) fn mapped_by(&mut self, pid: u32, share: &mut Share, name: Option<String>) {
        // The images don't tell which pages of the segment a mapping has.
        share.image_bytes = self.share.image_bytes.min(share.mapped_bytes);
        share.parent_bytes = self.share.parent_bytes.min(share.mapped_bytes);
        self.share.mapped_bytes = self.share.mapped_bytes.max(share.mapped_bytes);
        if self.pids.last() != Some(&pid) {
            self.pids.push(pid);
        }
        self.name = self.name.take().or(name);
    }
}
