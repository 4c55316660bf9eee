//! Divides memory into chunks and runs of zeros.

use super::{MAX, PAGE};

/// The fewest bytes of a chunk, but at the end and before zeros: a smaller one would cost
/// more in the catalogue than it saves.
const MIN: usize = 64 << 10;

/// The bytes of a chunk on average. A reader decodes at least one; a larger one
/// compresses better, and needs less of the catalogue.
const AVERAGE: usize = 256 << 10;

/// Bytes of zeros that are left out. Fewer stay in their chunk, where they compress to
/// nothing.
const ZEROS: usize = 64 << 10;

/// The number of words of a page that decide on a cut. They are read, not the whole page,
/// because all of memory passes here on one thread.
const SAMPLES: usize = 16;

/// A piece of memory, by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A chunk.
    Chunk(usize),
    /// Pages of zeros.
    Zeros(usize),
}

impl Cut {
    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Chunk(bytes) | Self::Zeros(bytes) => bytes,
        }
    }
}

/// Divides the memory of one page file; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Cutter {
    page: usize,
    /// One page in so many ends a chunk that has [`MIN`] bytes.
    spread: u64,
    /// Whether the memory before was a run of zeros, which goes on with the next zeros.
    in_zeros: bool,
}

impl Cutter {
    /// A cutter for a machine with pages of this many bytes.
    #[must_use]
    pub fn new(page: usize) -> Self {
        let page = page.next_multiple_of(PAGE).min(MAX);
        Self {
            page,
            spread: ((AVERAGE - MIN) / page).max(1) as u64,
            in_zeros: false,
        }
    }

    /// The bytes that a buffer needs so that at least one piece is complete.
    pub const ENOUGH: usize = MAX + ZEROS;

    /// Cuts the beginning of `bytes`, which begin at a cut, and returns the pieces that are
    /// complete. The rest is the beginning of the next call's bytes. Nothing is left if
    /// these bytes are the last ones.
    pub fn cut(&mut self, bytes: &[u8], last: bool) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let zeros = self.zeros(&bytes[start..]);
            let ends_here = start + zeros == bytes.len();
            if self.in_zeros && zeros > 0 || zeros >= ZEROS {
                self.in_zeros = true;
                cuts.push(Cut::Zeros(zeros));
                start += zeros;
                continue;
            }
            if ends_here && !last {
                break;
            }
            match self.chunk(&bytes[start..], last) {
                Some(length) => {
                    self.in_zeros = false;
                    cuts.push(Cut::Chunk(length));
                    start += length;
                }
                None => break,
            }
        }
        cuts
    }

    /// The length of the chunk at the beginning of `bytes`, unless it may go on.
    fn chunk(&self, bytes: &[u8], last: bool) -> Option<usize> {
        let mut length = 0;
        // The zeros at the end of what was read.
        let mut zeros = 0;
        for page in bytes.chunks(self.page) {
            length += page.len();
            match is_zero(page) {
                true => zeros += page.len(),
                false => zeros = 0,
            }
            if zeros >= ZEROS && length > zeros {
                return Some(length - zeros);
            }
            let ends = length >= MIN && fingerprint(page).is_multiple_of(self.spread);
            if (ends && zeros == 0) || length + self.page > MAX {
                return Some(length);
            }
        }
        last.then_some(length)
    }

    /// The bytes of zeros at the beginning, in whole pages.
    fn zeros(&self, bytes: &[u8]) -> usize {
        let pages = bytes.chunks(self.page);
        let zeros = pages.take_while(|page| is_zero(page));
        zeros.map(<[u8]>::len).sum()
    }
}

/// Whether a page has zeros only.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    // Most pages are told by their first words.
    let (head, rest) = page.split_at(page.len().min(64));
    head.iter().all(|byte| *byte == 0) && rest.iter().fold(0, |all, byte| all | byte) == 0
}

/// A number that pages of equal samples share.
fn fingerprint(page: &[u8]) -> u64 {
    let mut mixed: u64 = 0;
    let stride = page.len() / SAMPLES;
    for sample in 0..SAMPLES {
        // At another offset in each part, since structures repeat.
        let within = (sample * 40) % stride.max(8);
        let at = (sample * stride + within) & !7;
        let word = page.get(at..at + 8).and_then(|word| word.first_chunk());
        let word = word.map_or(0, |word| u64::from_le_bytes(*word));
        mixed = (mixed ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^= mixed >> 32;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pages of noise, and of zeros where the number is 0.
    fn memory(pages: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &seed in pages {
            let mut word = u64::from(seed);
            for _ in 0..PAGE / 8 {
                if seed != 0 {
                    word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                }
                bytes.extend((word ^ (word >> 29)).to_le_bytes());
            }
        }
        bytes
    }

    /// The cuts of bytes that arrive in pieces of these sizes, with adjacent zeros joined.
    fn cuts(bytes: &[u8], piece: usize) -> Vec<Cut> {
        let mut cutter = Cutter::new(PAGE);
        let mut all: Vec<Cut> = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let end = bytes.len().min(start + piece);
            for cut in cutter.cut(&bytes[start..end], end == bytes.len()) {
                start += cut.bytes();
                match (all.last_mut(), cut) {
                    (Some(Cut::Zeros(before)), Cut::Zeros(more)) => *before += more,
                    _ => all.push(cut),
                }
            }
        }
        all
    }

    #[test]
    fn a_page_more_moves_few_cuts() {
        let pages: Vec<u32> = (1..3000).collect();
        let mut more = pages.clone();
        more.insert(100, 77_777);
        let (before, after) = (
            cuts(&memory(&pages), Cutter::ENOUGH),
            cuts(&memory(&more), Cutter::ENOUGH),
        );
        let common = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(common + 6 > before.len(), "{common} of {}", before.len());
        let average = 2999 * PAGE / before.len();
        assert!(
            (AVERAGE / 2..AVERAGE * 2).contains(&average),
            "{average} bytes on average"
        );
    }

    #[test]
    fn equal_pages_are_cut_at_the_maximum() {
        let all = cuts(&memory(&[5; 600]), Cutter::ENOUGH);
        assert!(all.iter().all(|cut| cut.bytes() <= MAX), "{all:?}");
        assert_eq!(all.iter().map(|cut| cut.bytes()).sum::<usize>(), 600 * PAGE);
    }

    #[test]
    fn larger_pages_are_not_divided() {
        let mut cutter = Cutter::new(64 << 10);
        let bytes = memory(&(1..400).collect::<Vec<_>>());
        let whole = &bytes[..bytes.len() / (64 << 10) * (64 << 10)];
        for cut in cutter.cut(whole, true) {
            assert!(cut.bytes().is_multiple_of(64 << 10), "{cut:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn cuts_do_not_depend_on_the_pieces(
            runs in prop::collection::vec((any::<bool>(), 1usize..60), 1..12),
            piece in 0usize..40,
        ) {
            let mut pages = Vec::new();
            for (number, (zero, length)) in runs.into_iter().enumerate() {
                for page in 0..length {
                    pages.push(if zero { 0 } else { (number * 100 + page + 1) as u32 });
                }
            }
            let bytes = memory(&pages);
            let whole = cuts(&bytes, bytes.len());
            prop_assert_eq!(&whole, &cuts(&bytes, Cutter::ENOUGH + piece * PAGE));
            let sum: usize = whole.iter().map(|cut| cut.bytes()).sum();
            prop_assert_eq!(sum, bytes.len());
            let mut at = 0;
            for cut in whole {
                let part = &bytes[at..at + cut.bytes()];
                at += cut.bytes();
                match cut {
                    Cut::Zeros(_) => prop_assert!(is_zero(part)),
                    Cut::Chunk(length) => prop_assert!(length <= MAX && !is_zero(part) || length < ZEROS),
                }
            }
        }
    }
}
