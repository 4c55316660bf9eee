//! The memory of one process.

use serde::Serialize;

use super::mappings::{Mapping, MappingKind, access};
use super::pages::{Pages, Run, Share};
use crate::images::dir::Dir;
use crate::images::proto::{Mm, Vma};
use crate::images::{Error, Images};
use crate::inspect::files::Files;

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

impl Memory {
    /// The memory of a process, and the number of its program's file. `None` for a
    /// process without memory.
    pub(in crate::inspect) fn read<I: Images + ?Sized>(
        dir: &Dir<'_, I>,
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
}
