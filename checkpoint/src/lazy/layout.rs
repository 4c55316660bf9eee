//! The lazy memory of a checkpoint: the pages that CRIU leaves to the page source.
//!
//! ```text
//! pagemap-PID.img   runs of pages, in the order of the pages file; each says
//!                   whether CRIU takes it lazily
//! mm-PID.img        the mappings that the runs are in
//!      └──► Layout: per process: address, length, page file, offset in it
//!               └──► Memory: the same, with the page files open
//! ```
//!
//! A dump marks every page that a lazy restore *could* skip, and a lazy restore
//! skips all of those and no others (CRIU's mem.c, `restore_priv_vma_content`).
//! Runs are cut at the ends of mappings, because one userfaultfd request must lie within
//! one mapping.
//!
//! Since CRIU 4.2 the list of mappings is not disjoint: a guard region
//! (`MADV_GUARD_INSTALL`, each thread stack of glibc 2.42 has one) is an entry of
//! its own that lies inside another mapping. It holds no pages, and CRIU registers
//! the mapping around it.
//!
//! The images' digests have been compared before, so an image that is inconsistent
//! here is not damaged: it has content that this version does not know. CRIU, which
//! wrote it, then restores the checkpoint eagerly ([`NotLazy`]).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::format;
use crate::format::contents::{self, Node};
use crate::format::manifest::Manifest;
use crate::format::pages::Reader;
use crate::images::Error;
use crate::images::dir::Dir;
use crate::images::frame::{Fault, Records};
use crate::images::proto::{Mm, PagemapHead, PagemapRun, PstreeEntry, Vma};

/// Maximum number of runs of one process: single pages with gaps between them in 32 GiB.
const MAX_RUNS: usize = 4 << 20;

/// The reason that this version can't restore a checkpoint lazily. CRIU can restore it
/// eagerly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotLazy {
    /// An image that this version does not understand.
    #[error("{} says something that this version does not understand", image.display())]
    Unknown {
        /// The image.
        image: PathBuf,
    },
    /// An image that can't be read.
    #[error(transparent)]
    Unreadable(format::Error),
}

impl From<format::Error> for NotLazy {
    fn from(error: format::Error) -> Self {
        match error {
            format::Error::Images(error) => error.into(),
            error => Self::Unreadable(error),
        }
    }
}

impl From<Error> for NotLazy {
    fn from(error: Error) -> Self {
        match error {
            Error::Unknown { file } | Error::TooMany { file } => Self::Unknown { image: file },
            error => Self::Unreadable(error.into()),
        }
    }
}

/// A run of memory, and the position of its content in a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// The page file: its number in a [`Layout`], an index of [`Memory::files`] in
    /// a [`Memory`].
    pub file: u32,
    /// The offset of its first byte in the raw page file.
    pub offset: u64,
    /// Whether it reads as zeros in a forked child (`MADV_WIPEONFORK`).
    pub wiped_on_fork: bool,
}

impl Run {
    fn length(&self) -> u64 {
        self.end - self.start
    }
}

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
    pub fn read(dir: &Path, page: u64) -> Result<Self, NotLazy> {
        let images = Dir(dir);
        let mut layout = Self::default();
        let mut parents: HashMap<u32, Parent> = HashMap::new();
        // CRIU writes a parent before its children.
        for process in images.all::<PstreeEntry>("pstree.img")? {
            // A zombie has no memory.
            let Some(mm) = images.first::<Mm>(&format!("mm-{}.img", process.pid))? else {
                continue;
            };
            let mut vmas = mm.vmas;
            vmas.retain(|vma| !vma.is_guard());
            vmas.sort_by_key(|vma| vma.start);
            let image = format!("pagemap-{}.img", process.pid);
            let read = |records: &mut Records| runs(records, &vmas, page);
            let runs = images.open(&image, read)?.unwrap_or_default();
            let pid = i32::try_from(process.pid).map_err(|_| NotLazy::Unknown {
                image: dir.join("pstree.img"),
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
fn total(processes: &BTreeMap<i32, Vec<Run>>) -> u64 {
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

/// The lazy memory, with its page files open, so that the checkpoint may be deleted while
/// they are read.
#[derive(Debug, Default)]
pub struct Memory {
    /// The page files.
    pub files: Vec<Reader>,
    /// The runs of each process, by its PID in the checkpoint, in ascending
    /// order.
    pub processes: BTreeMap<i32, Vec<Run>>,
}

impl Memory {
    /// Opens the memory of a checkpoint with a manifest.
    ///
    /// # Errors
    /// A file is missing or damaged, or the layout is not understood.
    pub fn open(dir: &Path, manifest: &Manifest, page: u64) -> Result<Self, NotLazy> {
        let mut memory = Self::default();
        let mut files = BTreeMap::new();
        for (name, node) in contents::open(dir, manifest)? {
            if let Node::Pages { reader, .. } = node {
                if !u64::from(reader.table().frame_size()).is_multiple_of(page) {
                    return Err(NotLazy::Unknown {
                        image: reader.path().to_owned(),
                    });
                }
                files.insert(name, memory.files.len() as u32);
                memory.files.push(reader);
            }
        }
        for (pid, mut runs) in Layout::read(dir, page)?.processes {
            let truncated = || NotLazy::Unknown {
                image: dir.join(format!("pagemap-{pid}.img")),
            };
            for run in &mut runs {
                let name = format!("pages-{}.img", run.file);
                run.file = *files.get(&name).ok_or_else(truncated)?;
            }
            // All runs of a process are in one file, in ascending order.
            if let Some(last) = runs.last()
                && memory.files.get(last.file as usize).is_none_or(|reader| {
                    last.offset.saturating_add(last.length()) > reader.table().raw_bytes()
                })
            {
                return Err(truncated());
            }
            memory.processes.insert(pid, runs);
        }
        Ok(memory)
    }

    /// Returns the bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        total(&self.processes)
    }
}

/// The lazy runs of one pagemap.
fn runs(records: &mut Records, vmas: &[Vma], page: u64) -> Result<Vec<Run>, Fault> {
    let head: PagemapHead = records.next_message()?.ok_or(Fault::Truncated)?;
    let mut runs = Vec::new();
    let mut offset = 0u64;
    let mut before = 0;
    while let Some(run) = records.next_message::<PagemapRun>()? {
        let length = run.pages().checked_mul(page).ok_or(Fault::Malformed)?;
        let end = run.vaddr.checked_add(length).ok_or(Fault::Malformed)?;
        if run.vaddr < before || !run.vaddr.is_multiple_of(page) {
            return Err(Fault::Malformed);
        }
        before = end;
        if !run.is_present() {
            // CRIU would leave the pages to the page source, which does not have them.
            if run.is_lazy() {
                return Err(Fault::Malformed);
            }
            continue;
        }
        if run.is_lazy() && length > 0 {
            let place = Run {
                start: run.vaddr,
                end,
                file: head.pages_id,
                offset,
                wiped_on_fork: false,
            };
            cut(place, vmas, &mut runs)?;
            if runs.len() > MAX_RUNS {
                return Err(Fault::TooMany);
            }
        }
        offset = offset.checked_add(length).ok_or(Fault::Malformed)?;
    }
    Ok(runs)
}

/// Cuts a run at the ends of its mappings. It is refused if they are not disjoint and in
/// ascending order.
fn cut(run: Run, vmas: &[Vma], into: &mut Vec<Run>) -> Result<(), Fault> {
    let mut at = run.start;
    let first = vmas.partition_point(|vma| vma.end <= at);
    for vma in &vmas[first..] {
        if at >= run.end {
            break;
        }
        if vma.start > at || !can_be_lazy(vma) {
            return Err(Fault::Malformed);
        }
        let end = run.end.min(vma.end);
        into.push(Run {
            start: at,
            end,
            offset: run.offset + (at - run.start),
            wiped_on_fork: is_wiped_on_fork(vma),
            ..run
        });
        at = end;
    }
    match at < run.end {
        true => Err(Fault::Malformed),
        false => Ok(()),
    }
}

/// Whether CRIU registers a mapping for lazy restore (`vma_entry_can_be_lazy`,
/// include/vma.h). Lazy pages in any other mapping would never be requested.
fn can_be_lazy(vma: &Vma) -> bool {
    const VSYSCALL: u32 = 1 << 2;
    const VDSO: u32 = 1 << 3;
    const VVAR: u32 = 1 << 12;
    vma.is_private_anonymous()
        && vma.flags & (Vma::LOCKED | Vma::HUGETLB) == 0
        && vma.status & (VSYSCALL | VDSO | VVAR) == 0
}

fn is_wiped_on_fork(vma: &Vma) -> bool {
    const MADV_WIPEONFORK: u32 = 18;
    vma.madv.unwrap_or_default() & (1 << MADV_WIPEONFORK) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const PAGE: u64 = 4096;

    fn message(fields: &[(u8, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(number, value) in fields {
            bytes.push(number << 3);
            let mut left = value;
            while left >= 0x80 {
                bytes.push(left as u8 | 0x80);
                left >>= 7;
            }
            bytes.push(left as u8);
        }
        bytes
    }

    /// A pagemap of (first page, pages, flags) for pages file 1.
    fn pagemap(runs: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut image = 0x5456_4319u32.to_le_bytes().to_vec();
        image.extend(0x5608_4025u32.to_le_bytes());
        let head = message(&[(1, 1)]);
        let runs = runs.iter().map(|&(first, pages, flags)| {
            message(&[(1, first * PAGE), (2, 0), (4, flags), (5, pages)])
        });
        for record in std::iter::once(head).chain(runs) {
            image.extend((record.len() as u32).to_le_bytes());
            image.extend(record);
        }
        image
    }

    fn vma(start: u64, end: u64, flags: u32) -> Vma {
        Vma {
            start: start * PAGE,
            end: end * PAGE,
            flags,
            ..Vma::default()
        }
    }

    fn read(image: &[u8], vmas: &[Vma]) -> Result<Vec<Run>, Fault> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("pagemap-1.img");
        fs::write(&path, image).expect("write");
        let mut records = Records::open(&path)?;
        runs(&mut records, vmas, PAGE)
    }

    const PRIVATE: u32 = 0x22;
    const PRESENT: u64 = 4;
    const LAZY: u64 = 2;

    #[test]
    fn runs_are_cut_at_mappings_and_have_their_offset() {
        let mut wiped = vma(20, 30, PRIVATE);
        wiped.madv = Some(1 << 18);
        let vmas = [vma(10, 20, PRIVATE), wiped, vma(40, 50, PRIVATE | 1)];
        let image = pagemap(&[
            (12, 2, PRESENT),
            (14, 10, PRESENT | LAZY),
            (40, 4, 0),
            (44, 2, PRESENT | LAZY),
        ]);
        let place = |start: u64, end: u64, offset: u64, wiped_on_fork| Run {
            start: start * PAGE,
            end: end * PAGE,
            file: 1,
            offset: offset * PAGE,
            wiped_on_fork,
        };
        let expected = [
            place(14, 20, 2, false),
            place(20, 24, 8, true),
            place(44, 46, 12, false),
        ];
        assert_eq!(read(&image, &vmas).expect("sound"), expected);
    }

    #[test]
    fn invalid_runs_are_refused() {
        let vmas = [vma(10, 20, PRIVATE), vma(20, 30, PRIVATE | 0x2000)];
        for runs in [
            // Outside of every mapping, before one, beyond one, in a locked one.
            vec![(50, 1, PRESENT | LAZY)],
            vec![(8, 4, PRESENT | LAZY)],
            vec![(28, 4, PRESENT | LAZY)],
            vec![(18, 4, PRESENT | LAZY)],
            // Not present; out of order; overlapping; beyond all addresses.
            vec![(12, 1, LAZY)],
            vec![(14, 1, PRESENT | LAZY), (12, 1, PRESENT | LAZY)],
            vec![(12, 4, PRESENT | LAZY), (14, 1, PRESENT | LAZY)],
            vec![(12, u64::MAX, PRESENT | LAZY)],
            vec![(12, u64::MAX / PAGE, PRESENT)],
        ] {
            assert!(read(&pagemap(&runs), &vmas).is_err(), "{runs:?}");
        }
    }

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

    proptest! {
        #[test]
        fn no_content_panics_and_runs_ascend(
            runs in prop::collection::vec((0..64u64, 0..9u64, 0..8u64), 0..8),
            cut in 0..400usize,
            at in 0..400usize,
            value: u8,
        ) {
            let vmas = [vma(0, 32, PRIVATE), vma(32, 80, PRIVATE)];
            let mut image = pagemap(&runs);
            if let Ok(runs) = read(&image, &vmas) {
                let pairs = runs.windows(2);
                for pair in pairs {
                    prop_assert!(pair[0].end <= pair[1].start);
                    prop_assert!(pair[0].offset < pair[1].offset);
                }
            }
            if let Some(byte) = image.get_mut(at) {
                *byte = value;
            }
            let _ = read(&image, &vmas);
            image.truncate(cut);
            let _ = read(&image, &vmas);
        }
    }
}
