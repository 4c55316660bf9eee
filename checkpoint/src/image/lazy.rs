//! The memory of a checkpoint that a restore may leave for later.
//!
//! ```text
//! pagemap-PID.img   runs of pages, in the order of the pages file; each says
//!                   whether CRIU takes it lazily
//! mm-PID.img        the mappings that the runs are in
//!      └──► per process: address, length, page file, place in it
//! ```
//!
//! A dump marks every page that a lazy restore *could* skip, and a lazy restore
//! skips all of those and no others (CRIU's mem.c, `restore_priv_vma_content`).
//! Runs are cut at the ends of mappings here: a page is given to the kernel in
//! one mapping at a time. The page files are opened, and stay so: the checkpoint
//! may be deleted while they are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::contents::{self, Node};
use super::dir::Dir;
use super::frame::{Fault, Records};
use super::manifest::Manifest;
use super::pages::Reader;
use super::proto::{Mm, PagemapHead, PagemapRun, PstreeEntry, Vma};
use super::verify::Error;

/// The most runs of one process: with a page in each, and a gap after each, as
/// many as fit into 32 GiB.
const MAX_RUNS: usize = 4 << 20;

/// A stretch of memory and where its content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// The page file, as an index of [`Memory::files`].
    pub file: u32,
    /// Where in the raw page file the first byte is.
    pub offset: u64,
    /// Whether a forked child finds zeros there instead (`MADV_WIPEONFORK`).
    pub wiped_on_fork: bool,
}

/// What can be left for later.
#[derive(Debug, Default)]
pub struct Memory {
    /// The page files.
    pub files: Vec<Reader>,
    /// The runs of each process, by its PID in the checkpoint, in ascending
    /// order.
    pub processes: BTreeMap<i32, Vec<Run>>,
}

impl Memory {
    /// Opens the memory of a checkpoint of ours.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn open(dir: &Path, manifest: &Manifest, page: u64) -> Result<Self, Error> {
        let mut memory = Self::default();
        let mut files = BTreeMap::new();
        for (name, node) in contents::open(dir, manifest)? {
            if let Node::Pages { reader, .. } = node {
                if !u64::from(reader.table().frame_size()).is_multiple_of(page) {
                    return Err(damaged(reader.path().to_owned()));
                }
                files.insert(name, memory.files.len());
                memory.files.push(reader);
            }
        }
        let images = Dir(dir);
        for process in images.all::<PstreeEntry>("pstree.img")? {
            // A zombie has no memory.
            let Some(mut mm) = images.first::<Mm>(&format!("mm-{}.img", process.pid))? else {
                continue;
            };
            mm.vmas.sort_by_key(|vma| vma.start);
            let image = format!("pagemap-{}.img", process.pid);
            let file = |id: u32| files.get(&format!("pages-{id}.img")).copied();
            let read = |records: &mut Records| runs(records, &mm.vmas, page, file);
            let runs = images.open(&image, read)?.unwrap_or_default();
            let pid = i32::try_from(process.pid).map_err(|_| damaged(dir.join("pstree.img")))?;
            if let Some(last) = runs.last()
                && memory.files.get(last.file as usize).is_none_or(|reader| {
                    last.offset.saturating_add(last.end - last.start) > reader.table().raw_bytes()
                })
            {
                return Err(damaged(dir.join(image)));
            }
            memory.processes.insert(pid, runs);
        }
        Ok(memory)
    }

    /// How many bytes that is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let runs = self.processes.values().flatten();
        runs.map(|run| run.end - run.start).sum()
    }
}

fn damaged(file: PathBuf) -> Error {
    Error::Damaged { file }
}

/// The lazy runs of one pagemap.
fn runs(
    records: &mut Records,
    vmas: &[Vma],
    page: u64,
    file: impl Fn(u32) -> Option<usize>,
) -> Result<Vec<Run>, Fault> {
    let head: PagemapHead = records.next_message()?.ok_or(Fault::Truncated)?;
    let mut file = file(head.pages_id).and_then(|file| u32::try_from(file).ok());
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
            // CRIU would leave it to us, and there is nothing to give.
            if run.is_lazy() {
                return Err(Fault::Malformed);
            }
            continue;
        }
        if run.is_lazy() && length > 0 {
            let file = *file.get_or_insert(u32::MAX);
            let place = Run {
                start: run.vaddr,
                end,
                file,
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

/// Cuts a run at the ends of the mappings that it is in.
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
/// include/vma.h). Pages marked lazy in any other would never come.
fn can_be_lazy(vma: &Vma) -> bool {
    // The bits of mmap(2) on x86-64 and arm64, and CRIU's own (include/image.h).
    const PRIVATE: u32 = 0x02;
    const ANONYMOUS: u32 = 0x20;
    const LOCKED: u32 = 0x2000;
    const HUGETLB: u32 = 0x4_0000;
    const VSYSCALL: u32 = 1 << 2;
    const VDSO: u32 = 1 << 3;
    const VVAR: u32 = 1 << 12;
    vma.flags & PRIVATE != 0
        && vma.flags & ANONYMOUS != 0
        && vma.flags & (LOCKED | HUGETLB) == 0
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
        runs(&mut records, vmas, PAGE, |id| (id == 1).then_some(3))
    }

    const PRIVATE: u32 = 0x22;
    const PRESENT: u64 = 4;
    const LAZY: u64 = 2;

    #[test]
    fn runs_are_cut_at_mappings_and_know_their_place() {
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
            file: 3,
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
    fn what_could_not_be_given_is_refused() {
        let vmas = [vma(10, 20, PRIVATE), vma(20, 30, PRIVATE | 0x2000)];
        for runs in [
            // Outside of every mapping, before one, beyond one, in a locked one.
            vec![(50, 1, PRESENT | LAZY)],
            vec![(8, 4, PRESENT | LAZY)],
            vec![(28, 4, PRESENT | LAZY)],
            vec![(18, 4, PRESENT | LAZY)],
            // Not there; out of order; overlapping; beyond all addresses.
            vec![(12, 1, LAZY)],
            vec![(14, 1, PRESENT | LAZY), (12, 1, PRESENT | LAZY)],
            vec![(12, 4, PRESENT | LAZY), (14, 1, PRESENT | LAZY)],
            vec![(12, u64::MAX, PRESENT | LAZY)],
            vec![(12, u64::MAX / PAGE, PRESENT)],
        ] {
            assert!(read(&pagemap(&runs), &vmas).is_err(), "{runs:?}");
        }
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
