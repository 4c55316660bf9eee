//! Finds similar chunks without comparing them.
//!
//! The smallest digest of a set of pages stays the same when another page of the set
//! changes. Two chunks that share most of their pages share it, too, with that
//! probability (min-hashing). With two independent orders of the digests a chunk of which
//! 5 per cent of the pages changed is found in 399 of 400 cases.

use super::{PAGE, PageDigest};

/// What similar chunks have in common: two numbers of which at least one is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sketch(pub [i64; 2]);

impl Sketch {
    /// The sketch of a chunk; `None` if it has zeros only.
    #[must_use]
    pub fn of(pages: &[PageDigest]) -> Option<Self> {
        Self::of_beginnings(pages.iter().filter_map(|digest| digest.first_chunk()))
    }

    /// The same from the beginnings of the pages' digests, which packs keep.
    pub(crate) fn of_beginnings<'a>(
        digests: impl IntoIterator<Item = &'a [u8; 16]>,
    ) -> Option<Self> {
        let zero = *blake3::hash(&[0; PAGE]).as_bytes();
        let mut least = None;
        for digest in digests {
            let [first, second] = digest.as_chunks::<8>().0 else {
                continue;
            };
            if zero.starts_with(digest) {
                continue;
            }
            // Each order has its own numbers.
            let first = u64::from_le_bytes(*first) & !1;
            let second = u64::from_le_bytes(*second) | 1;
            least = Some(match least {
                None => (first, second),
                Some((a, b)) => (first.min(a), second.min(b)),
            });
        }
        least.map(|(first, second)| Self([first.cast_signed(), second.cast_signed()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Pages;

    fn chunk(changed: &[usize]) -> Pages {
        let mut bytes = vec![0; 64 * PAGE];
        for (number, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
            page.fill(number as u8 + 1);
            if changed.contains(&number) {
                page[17] = 200;
            }
        }
        Pages::of(&bytes)
    }

    #[test]
    fn similar_chunks_share_a_number() {
        let before = Sketch::of(&chunk(&[]).0).expect("a sketch");
        let alike = (0..64).filter(|page| {
            let after = Sketch::of(&chunk(&[*page]).0).expect("a sketch");
            before.0[0] == after.0[0] || before.0[1] == after.0[1]
        });
        assert!(alike.count() >= 63);
        assert_eq!(Sketch::of(&Pages::of(&[0; 3 * PAGE]).0), None);
    }
}
