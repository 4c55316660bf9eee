//! The lazy runs of one process, from its pagemap and its mappings.

use crate::images::frame::{Fault, Records};
use crate::images::proto::{PagemapHead, PagemapRun, Vma};

/// Maximum number of runs of one process: single pages with gaps between them in 32 GiB.
const MAX_RUNS: usize = 4 << 20;

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
    pub(super) fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// The lazy runs of one pagemap.
pub(super) fn runs(records: &mut Records, vmas: &[Vma], page: u64) -> Result<Vec<Run>, Fault> {
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
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    pub(crate) const PAGE: u64 = 4096;

    pub(crate) fn message(fields: &[(u8, u64)]) -> Vec<u8> {
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
    pub(crate) fn pagemap(runs: &[(u64, u64, u64)]) -> Vec<u8> {
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
        let mut records = Records::open(dir.path(), "pagemap-1.img")?;
        runs(&mut records, vmas, PAGE)
    }

    const PRIVATE: u32 = 0x22;
    pub(crate) const PRESENT: u64 = 4;
    pub(crate) const LAZY: u64 = 2;

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
