//! The layout of all processes' lazy memory.

use std::collections::{BTreeMap, HashMap};

use crate::images::Images;
use crate::images::dir::Dir;
use crate::images::frame::Records;
use crate::images::proto::{Mm, Vma};
use crate::images::pstree::processes;

use super::error::NotLazy;
use super::runs::{Run, runs};

/// The layout of all processes' lazy memory, from the images.
#[derive(Debug, Default)]
pub struct Layout {
    /// The runs of each process, by its PID in the checkpoint, in ascending
    /// order.
    pub processes: BTreeMap<i32, Vec<Run>>,
    /// Bytes of lazy memory that a child has at the same addresses as its parent, in the
    /// same private mapping. An eager restore forks the child and shares the pages with
    /// equal content (CRIU's mem.c, `prepare_cow_vmas`). A lazy restore gives each process
    /// a copy.
    pub inherited: u64,
}

/// The data of a process that its children are compared with.
struct Parent {
    exe: u32,
    vmas: Vec<Vma>,
}

impl Layout {
    /// Reads the layout of a checkpoint's memory.
    ///
    /// # Errors
    /// An image can't be read or is not understood.
    pub fn read<I: Images + ?Sized>(images: &I, page: u64) -> Result<Self, NotLazy> {
        let dir = Dir(images);
        let mut layout = Self::default();
        let mut parents: HashMap<u32, Parent> = HashMap::new();
        // CRIU writes a parent before its children.
        for process in processes(&dir)? {
            // A zombie has no memory.
            let Some(mm) = dir.first::<Mm>(&format!("mm-{}.img", process.pid))? else {
                continue;
            };
            let mut vmas = mm.vmas;
            vmas.retain(|vma| !vma.is_guard());
            vmas.sort_by_key(|vma| vma.start);
            let image = format!("pagemap-{}.img", process.pid);
            let read = |records: &mut Records| runs(records, &vmas, page);
            let runs = dir.open(&image, read)?.unwrap_or_default();
            let pid = i32::try_from(process.pid).map_err(|_| NotLazy::Unknown {
                image: images.path().join("pstree.img"),
            })?;
            let exe = mm.exe_file_id;
            if let Some(parent) = parents.get(&process.ppid)
                && parent.exe == exe
                && let Some(parents) = layout.processes.get(&process.ppid.cast_signed())
            {
                let more = inherited(&parent.vmas, parents, &vmas, &runs);
                layout.inherited = layout.inherited.saturating_add(more);
            }
            layout.processes.insert(pid, runs);
            parents.insert(process.pid, Parent { exe, vmas });
        }
        Ok(layout)
    }

    /// Returns the bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        total(&self.processes)
    }
}

/// The bytes of all runs. The sum saturates, because the images are untrusted.
pub(super) fn total(processes: &BTreeMap<i32, Vec<Run>>) -> u64 {
    let runs = processes.values().flatten();
    runs.map(Run::length).fold(0, u64::saturating_add)
}

/// The bytes that a child's runs share with its parent's, in mappings that CRIU regards
/// as inherited: private ones with the same start and end.
fn inherited(parent_vmas: &[Vma], parent_runs: &[Run], vmas: &[Vma], runs: &[Run]) -> u64 {
    let same = |vma: &Vma| {
        let at = parent_vmas.binary_search_by_key(&vma.start, |other| other.start);
        at.is_ok_and(|at| parent_vmas[at].end == vma.end)
    };
    let mut bytes = 0;
    for run in runs {
        // Each run lies within one mapping.
        let at = vmas.partition_point(|vma| vma.end <= run.start);
        if !vmas.get(at).is_some_and(same) {
            continue;
        }
        let first = parent_runs.partition_point(|other| other.end <= run.start);
        let overlapping = parent_runs[first..]
            .iter()
            .take_while(|other| other.start < run.end);
        bytes = overlapping
            .map(|other| run.end.min(other.end) - run.start.max(other.start))
            .fold(bytes, u64::saturating_add);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::{LAZY, PAGE, PRESENT, message, pagemap};
    use super::*;
    use std::fs;

    /// An image with these records.
    fn image(records: &[Vec<u8>]) -> Vec<u8> {
        let mut image = 0x5456_4319u32.to_le_bytes().to_vec();
        image.extend([0; 4]);
        for record in records {
            image.extend((record.len() as u32).to_le_bytes());
            image.extend(record);
        }
        image
    }

    /// The images of processes: (PID, parent, executable, mappings, runs).
    type Process<'a> = (u64, u64, u64, &'a [(u64, u64, u64)], &'a [(u64, u64, u64)]);

    fn checkpoint(processes: &[Process<'_>]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: String, image: Vec<u8>| {
            fs::write(dir.path().join(name), image).expect("write");
        };
        let tree: Vec<_> = processes
            .iter()
            .map(|(pid, parent, ..)| message(&[(1, *pid), (2, *parent), (3, 1), (4, 1)]))
            .collect();
        write("pstree.img".to_owned(), image(&tree));
        for (pid, _, exe, vmas, runs) in processes {
            let mut mm = message(&[(5, 0), (12, *exe)]);
            for (start, end, status) in *vmas {
                let (start, end) = (start * PAGE, end * PAGE);
                let vma = [
                    (1, start),
                    (2, end),
                    (4, 0),
                    (5, 3),
                    (6, 0x22),
                    (7, *status),
                ];
                let vma = message(&vma);
                mm.extend([14 << 3 | 2, vma.len() as u8]);
                mm.extend(vma);
            }
            write(format!("mm-{pid}.img"), image(&[mm]));
            write(format!("pagemap-{pid}.img"), pagemap(runs));
        }
        dir
    }

    const GUARD: u64 = 1 << 16;
    const ANONYMOUS: u64 = 1 | 1 << 9;

    #[test]
    fn guard_regions_lie_inside_mappings() {
        // CRIU lists them last. Two mappings side by side, one guard in each.
        let vmas = [
            (10, 20, ANONYMOUS),
            (20, 30, ANONYMOUS),
            (10, 11, GUARD),
            (25, 26, GUARD),
        ];
        let runs = [(11, 14, PRESENT | LAZY), (26, 2, PRESENT | LAZY)];
        let dir = checkpoint(&[(1, 0, 1, &vmas, &runs)]);
        let layout = Layout::read(dir.path(), PAGE).expect("sound");
        let pages: Vec<_> = layout.processes[&1]
            .iter()
            .map(|run| (run.start / PAGE, run.end / PAGE, run.offset / PAGE))
            .collect();
        assert_eq!(pages, [(11, 20, 0), (20, 25, 9), (26, 28, 14)]);
    }

    #[test]
    fn an_unknown_image_is_not_called_damaged() {
        // Mappings that overlap in a way that no known CRIU writes.
        let vmas = [(10, 20, ANONYMOUS), (12, 14, 0)];
        let dir = checkpoint(&[(1, 0, 1, &vmas, &[(11, 20, PRESENT | LAZY)])]);
        let error = Layout::read(dir.path(), PAGE).expect_err("unknown");
        assert!(matches!(error, NotLazy::Unknown { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("pagemap-1.img") && !text.contains("damaged"),
            "{text}"
        );
    }

    #[test]
    fn memory_inherited_from_the_parent_is_counted() {
        let shared = [(10, 30, ANONYMOUS), (40, 50, ANONYMOUS)];
        let runs = [(10, 15, PRESENT | LAZY), (40, 4, PRESENT | LAZY)];
        // The second mapping has grown, so it is not inherited.
        let grown = [(10, 30, ANONYMOUS), (40, 60, ANONYMOUS)];
        let partly = [(20, 10, PRESENT | LAZY), (40, 4, PRESENT | LAZY)];
        let count = |child: Process<'_>| {
            let dir = checkpoint(&[(1, 0, 7, &shared, &runs), child]);
            Layout::read(dir.path(), PAGE).expect("sound").inherited / PAGE
        };
        assert_eq!(count((2, 1, 7, &shared, &runs)), 19);
        assert_eq!(count((2, 1, 7, &grown, &runs)), 15);
        assert_eq!(count((2, 1, 7, &shared, &partly)), 5 + 4);
        // Another program, and a process that is not a child.
        assert_eq!(count((2, 1, 8, &shared, &runs)), 0);
        assert_eq!(count((2, 0, 7, &shared, &runs)), 0);
    }
}
