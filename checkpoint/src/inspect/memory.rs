//! Address spaces, and the bytes of each that are in the checkpoint.
//!
//! An mm image lists mappings; a pagemap lists runs of dumped pages, which are assigned
//! to mappings by their addresses. Each segment of shared memory has its own pagemap.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Dir;
use super::files::Files;
use crate::images::Error;
use crate::images::dir::number;
use crate::images::frame::{Fault, Records};
use crate::images::proto::{MemfdInode, Mm, PagemapHead, PagemapRun, Vma};

/// The number of mappings that are listed per process: the largest ones. A process may
/// have a hundred thousand.
const LARGEST: usize = 16;

/// The memory of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All memory.
    pub total: Share,
    /// Private memory without a file: heap, stacks, anonymous mappings.
    pub anonymous: Share,
    /// Private mappings of files: programs, libraries. The checkpoint has the pages
    /// that the process changed.
    pub file: Share,
    /// Memory that other processes may map: shared files, shared memory. It counts in
    /// every process that maps it.
    pub shared: Share,
    /// Mappings of the kernel: vdso, vvar, rings.
    pub other: Share,
    /// The mappings with most bytes in the checkpoint, then the longest.
    pub largest: Vec<Mapping>,
}

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

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Access rights, as /proc/PID/maps shows them: `rwx`, `r--`.
    pub access: String,
    /// The kind of mapping.
    pub kind: MappingKind,
    /// The file, or the name of a memory file.
    pub path: Option<String>,
    /// The size, in this checkpoint and in its parent.
    #[serde(flatten)]
    pub share: Share,
}

/// The kind of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum MappingKind {
    Heap,
    Stack,
    Anonymous,
    File,
    SharedFile,
    SharedAnonymous,
    Memfd,
    SysvShm,
    AioRing,
    Socket,
    Vdso,
    Vvar,
    Vsyscall,
    Uprobes,
    Other,
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
pub(super) struct Pages {
    /// Bytes per page on the machine that the checkpoint was taken on.
    size: u64,
    /// Bytes that each pages file must have, by its number.
    pub(super) files: BTreeMap<u32, u64>,
    /// Shared memory by CRIU's number for it.
    pub(super) shared: BTreeMap<u64, SharedMemory>,
}

/// A run of pages, in bytes.
struct Run {
    start: u64,
    length: u64,
    present: bool,
    in_parent: bool,
}

impl Pages {
    /// Reads the pagemaps of shared memory. Those of processes are read with each process.
    pub(super) fn read(dir: &Dir<'_>, listing: &[(String, u64)]) -> Result<Self, Error> {
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

    fn walk(&mut self, dir: &Dir<'_>, image: &str, mut each: impl FnMut(Run)) -> Result<(), Error> {
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
fn page_size(dir: &Dir<'_>, listing: &[(String, u64)]) -> Result<u64, Error> {
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
    fn add(&mut self, bytes: u64, run: &Run) {
        if run.present {
            self.image_bytes = self.image_bytes.saturating_add(bytes);
        } else if run.in_parent {
            self.parent_bytes = self.parent_bytes.saturating_add(bytes);
        }
    }

    fn plus(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.mapped_bytes, other.mapped_bytes),
            (&mut self.image_bytes, other.image_bytes),
            (&mut self.parent_bytes, other.parent_bytes),
        ] {
            *to = to.saturating_add(from);
        }
    }
}

impl Memory {
    /// The memory of a process, and the number of its program's file. `None` for a
    /// process without memory.
    pub(super) fn read(
        dir: &Dir<'_>,
        pid: u32,
        files: &Files,
        pages: &mut Pages,
    ) -> Result<Option<(Self, u32)>, Error> {
        let Some(mm) = dir.first::<Mm>(&format!("mm-{pid}.img"))? else {
            return Ok(None);
        };
        let mut vmas: Vec<(Vma, Share)> = mm
            .vmas
            .into_iter()
            // The addresses of a guard region count with the mapping around it.
            .filter(|vma| !vma.is_guard())
            .map(|vma| {
                let share = Share {
                    mapped_bytes: vma.end.saturating_sub(vma.start),
                    ..Share::default()
                };
                (vma, share)
            })
            .collect();
        vmas.sort_by_key(|(vma, _)| vma.start);
        pages.walk(dir, &format!("pagemap-{pid}.img"), |run| {
            spread(&run, &mut vmas);
        })?;
        let kind_of = |vma: &Vma| match MappingKind::of(vma, files) {
            // CRIU marks only stacks that grow. The main stack's start address is stored
            // separately.
            MappingKind::Anonymous if (vma.start..vma.end).contains(&mm.mm_start_stack) => {
                MappingKind::Stack
            }
            kind => kind,
        };
        let mut memory = Self::default();
        for (vma, share) in &mut vmas {
            let kind = kind_of(vma);
            if let Some(id) = kind.segment(vma, files)
                && let Some(segment) = pages.shared.get_mut(&id)
            {
                segment.mapped_by(pid, share, kind.path(vma, files));
            }
            memory.total.plus(share);
            memory.part(kind).plus(share);
        }
        vmas.sort_by_key(|(_, share)| std::cmp::Reverse((share.image_bytes, share.mapped_bytes)));
        memory.largest = vmas
            .iter()
            .take(LARGEST)
            .map(|(vma, share)| {
                let kind = kind_of(vma);
                Mapping {
                    start: vma.start,
                    end: vma.end,
                    access: access(vma.prot),
                    kind,
                    path: kind.path(vma, files),
                    share: *share,
                }
            })
            .collect();
        Ok(Some((memory, mm.exe_file_id)))
    }

    fn part(&mut self, kind: MappingKind) -> &mut Share {
        use MappingKind::*;
        match kind {
            Heap | Stack | Anonymous => &mut self.anonymous,
            File => &mut self.file,
            SharedFile | SharedAnonymous | Memfd | SysvShm => &mut self.shared,
            AioRing | Socket | Vdso | Vvar | Vsyscall | Uprobes | Other => &mut self.other,
        }
    }
}

/// Counts a run's pages in the mappings that they are in.
fn spread(run: &Run, vmas: &mut [(Vma, Share)]) {
    let end = run.start.saturating_add(run.length);
    let first = vmas.partition_point(|(vma, _)| vma.end <= run.start);
    for (vma, share) in &mut vmas[first..] {
        if vma.start >= end {
            break;
        }
        let from = run.start.max(vma.start);
        share.add(end.min(vma.end).saturating_sub(from), run);
    }
}

impl SharedMemory {
    fn mapped_by(&mut self, pid: u32, share: &mut Share, name: Option<String>) {
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

impl MappingKind {
    /// The kernel's name of shared memory without a file. CRIU 4 stores it as a memory file
    /// of that name.
    const ANONYMOUS_SHARED: &str = "/dev/zero";

    fn of(vma: &Vma, files: &Files) -> Self {
        match Self::by_status(vma.status) {
            Self::Memfd
                if memfd(vma, files).is_some_and(|memfd| memfd.name == Self::ANONYMOUS_SHARED) =>
            {
                Self::SharedAnonymous
            }
            kind => kind,
        }
    }

    /// Maps the bits of CRIU's criu/include/image.h. Special bits are checked first, because
    /// they come with a general one.
    fn by_status(status: u32) -> Self {
        use MappingKind::*;
        const BITS: [(u32, MappingKind); 15] = [
            (14, Memfd),
            (10, SysvShm),
            (13, AioRing),
            (11, Socket),
            (3, Vdso),
            (12, Vvar),
            (2, Vsyscall),
            (17, Uprobes),
            (5, Heap),
            (1, Stack),
            (15, Stack),
            (6, File),
            (7, SharedFile),
            (8, SharedAnonymous),
            (9, Anonymous),
        ];
        BITS.iter()
            .find(|(bit, _)| status & (1 << bit) != 0)
            .map_or(Other, |(_, kind)| *kind)
    }

    /// The segment of shared memory behind a mapping.
    fn segment(self, vma: &Vma, files: &Files) -> Option<u64> {
        match self {
            Self::SharedAnonymous | Self::Memfd => match memfd(vma, files) {
                Some(memfd) => Some(memfd.shmid.into()),
                None => Some(vma.shmid),
            },
            Self::SysvShm => Some(vma.shmid),
            _ => None,
        }
    }

    fn path(self, vma: &Vma, files: &Files) -> Option<String> {
        match self {
            Self::File | Self::SharedFile => files.path(u32::try_from(vma.shmid).ok()?),
            Self::Memfd => Some(format!("memfd:{}", memfd(vma, files)?.name)),
            _ => None,
        }
    }
}

/// The memory file of a mapping; `None` for another mapping.
fn memfd<'a>(vma: &Vma, files: &'a Files) -> Option<&'a MemfdInode> {
    const MEMFD: u32 = 1 << 14;
    if vma.status & MEMFD == 0 {
        return None;
    }
    files.memfd(u32::try_from(vma.shmid).ok()?)
}

fn access(prot: u32) -> String {
    [(1, 'r'), (2, 'w'), (4, 'x')]
        .into_iter()
        .map(|(bit, letter)| if prot & bit != 0 { letter } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_spread_over_mappings() {
        let vma = |start, end| {
            let vma = Vma {
                start,
                end,
                ..Vma::default()
            };
            (vma, Share::default())
        };
        let mut vmas = vec![
            vma(0x1000, 0x3000),
            vma(0x3000, 0x4000),
            vma(0x8000, 0x9000),
        ];
        let run = |start, length, present| Run {
            start,
            length,
            present,
            in_parent: !present,
        };
        spread(&run(0x2000, 0x2000, true), &mut vmas);
        spread(&run(0x8000, 0x1000, false), &mut vmas);
        spread(&run(0x5000, 0x1000, true), &mut vmas);
        spread(&run(u64::MAX, u64::MAX, true), &mut vmas);
        let bytes: Vec<_> = vmas
            .iter()
            .map(|(_, share)| (share.image_bytes, share.parent_bytes))
            .collect();
        assert_eq!(bytes, [(0x1000, 0), (0x1000, 0), (0, 0x1000)]);
    }

    #[test]
    fn kinds_by_status() {
        let kind = MappingKind::by_status;
        assert_eq!(kind(0x201), MappingKind::Anonymous);
        assert_eq!(kind(0x221), MappingKind::Heap);
        assert_eq!(kind(0x41), MappingKind::File);
        assert_eq!(kind(0x4081), MappingKind::Memfd);
        assert_eq!(kind(0), MappingKind::Other);
    }
}
