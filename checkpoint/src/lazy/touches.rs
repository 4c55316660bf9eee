//! Touches: the pages that processes missed after earlier restores, with their times.
//!
//! A program that is restored from one checkpoint again does much the same each time.
//! So the next restore prefetches first the pages that earlier ones missed, in the
//! order of the times. A page that was prefetched in time leaves no touch. So the
//! touches of all restores are kept together, each with its earliest time.
//!
//! Touches change only the order in which memory is given, so wrong ones only cost time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The unit of addresses: the bytes that answer one fault, a part of a frame.
pub(super) const BLOCK: u64 = 64 << 10;

/// The number of touches that are kept. Most frames are larger than a block, so this
/// covers the first gigabytes that a program touches.
const MOST: usize = 32 << 10;

/// Size limit of the text: `MOST` touches with the largest numbers.
pub const MAX_BYTES: u64 = 2 << 20;

/// The format of the text.
const FORMAT: u32 = 1;

/// Touches by PID in the checkpoint and block address. The values are milliseconds after
/// CRIU let the processes run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touches(BTreeMap<(i32, u64), u32>);

#[derive(Serialize, Deserialize)]
struct Text {
    format: u32,
    /// Process, address of the block, milliseconds.
    touches: Vec<(i32, u64, u32)>,
}

impl Touches {
    /// Parses a text. An invalid text, or one of another version, has no touches.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        match serde_json::from_slice::<Text>(text) {
            Ok(Text {
                format: FORMAT,
                touches,
            }) if touches.len() <= MOST => {
                let mut all = Self::default();
                for (pid, address, after) in touches {
                    all.insert(pid, address, after);
                }
                all
            }
            _ => Self::default(),
        }
    }

    /// Returns the text that [`Self::parse`] reads, in the order of time.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let text = Text {
            format: FORMAT,
            touches: self.sorted(),
        };
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// Returns whether there are no touches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the touches of another restore, and drops the latest beyond the limit.
    pub fn merge(&mut self, other: &Self) {
        for (&(pid, address), &after) in &other.0 {
            self.insert(pid, address, after);
        }
        if self.0.len() > MOST {
            let first = self.sorted().into_iter().take(MOST);
            self.0 = first.map(|(pid, at, after)| ((pid, at), after)).collect();
        }
    }

    pub(super) fn add(&mut self, pid: i32, address: u64, after: Duration) {
        let after = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        if self.0.len() < MOST {
            self.insert(pid, address, after);
        }
    }

    fn insert(&mut self, pid: i32, address: u64, after: u32) {
        let block = address & !(BLOCK - 1);
        self.0
            .entry((pid, block))
            .and_modify(|earliest| *earliest = after.min(*earliest))
            .or_insert(after);
    }

    /// Returns PIDs and blocks in the order of time.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (i32, u64)> {
        self.sorted().into_iter().map(|(pid, at, _)| (pid, at))
    }

    fn sorted(&self) -> Vec<(i32, u64, u32)> {
        let all = self.0.iter();
        let mut all: Vec<_> = all
            .map(|(&(pid, address), &after)| (pid, address, after))
            .collect();
        all.sort_by_key(|&(pid, address, after)| (after, pid, address));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn touches(all: &[(i32, u64, u64)]) -> Touches {
        let mut touches = Touches::default();
        for &(pid, block, millis) in all {
            touches.add(pid, block * BLOCK + 4096, Duration::from_millis(millis));
        }
        touches
    }

    #[test]
    fn merged_touches_are_in_the_order_of_time() {
        let mut all = touches(&[(1, 9, 30), (1, 3, 10), (2, 3, 20)]);
        all.merge(&touches(&[(1, 9, 5), (1, 3, 40), (7, 0, 15)]));
        let order: Vec<_> = all.in_order().collect();
        let expected = [(1, 9), (1, 3), (7, 0), (2, 3)];
        assert_eq!(order, expected.map(|(pid, block)| (pid, block * BLOCK)));
    }

    #[test]
    fn the_latest_touches_beyond_the_limit_are_dropped() {
        let many: Vec<_> = (0..MOST as u64).map(|n| (1, n, n + 1)).collect();
        let mut all = touches(&many);
        all.merge(&touches(&[(2, 0, 0)]));
        let order: Vec<_> = all.in_order().collect();
        assert_eq!(order.len(), MOST);
        assert_eq!(order[0], (2, 0));
        assert_eq!(order[MOST - 1].1, (MOST as u64 - 2) * BLOCK);
        assert!(all.render().len() as u64 <= MAX_BYTES);
        assert_eq!(Touches::parse(&all.render()), all);
    }

    #[test]
    fn an_invalid_text_has_no_touches() {
        for text in ["", "{}", "[]", r#"{"format":2,"touches":[[1,0,0]]}"#] {
            assert!(Touches::parse(text.as_bytes()).is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_rendered_text_is_parsed(
            all in prop::collection::vec((any::<i32>(), 0..1u64 << 47, any::<u32>()), 0..50),
        ) {
            let mut touches = Touches::default();
            for (pid, address, after) in all {
                touches.insert(pid, address, after);
            }
            prop_assert_eq!(Touches::parse(&touches.render()), touches);
        }

        #[test]
        fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Touches::parse(&text);
        }
    }
}
