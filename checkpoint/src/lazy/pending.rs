//! The missing memory of one address space.
//!
//! It is a map from addresses to offsets in page files. The process moves, drops and
//! duplicates its memory, and the kernel's events keep the map up to date.
//!
//! ```text
//! regions: address / 8 MiB ──► Arc ──► spans: start ──► end, place
//!                               ▲
//!          a forked child's ────┘      copied when one of both changes it
//! ```
//!
//! A fork duplicates the map, and a server that forks for each request may fork hundreds
//! of times while memory is missing. So the map is divided into regions of the address
//! space, which parent and children share until one of them changes a region. A fork
//! costs one pointer for each region with missing memory, and a region is copied once
//! for all children that were forked since its last change.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::lazy::layout::Run;

/// Maximum number of pieces that are searched for around one. A frame of single pages
/// with gaps between them has 64.
const MAX_PIECES: usize = 256;

/// Size of a region in bytes. A region of single pages with gaps between them has 1024
/// spans of 40 bytes, so a change after a fork copies 40 KiB at most. A region of one
/// span takes 200 bytes, which is 25 MiB for 1 TiB.
const REGION: u64 = 8 << 20;

/// A run of missing memory, and the position of its content in a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    end: u64,
    file: u32,
    offset: u64,
    wiped_on_fork: bool,
}

/// A run of missing memory whose content lies within one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The offset of its first byte in the raw page file.
    pub(super) offset: u64,
}

/// A frame of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) file: u32,
    pub(super) number: u64,
}

/// The spans of one region with their starts, in ascending order.
type Spans = Vec<(u64, Span)>;

/// The map of missing memory; see the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    /// Regions by their address divided by their size. No region is empty, and each span
    /// lies within one region.
    regions: BTreeMap<u64, Arc<Spans>>,
    bytes: u64,
    /// Whether a forked child has fewer spans, because some are wiped on fork.
    wiped_on_fork: bool,
    size: Size,
}

/// The size of a region: [`REGION`], or another one in tests.
#[derive(Debug, Clone, Copy)]
struct Size(u64);

impl Default for Size {
    fn default() -> Self {
        Self(REGION)
    }
}

impl Pending {
    /// Creates the map with all of a process's memory.
    pub(super) fn new(runs: &[Run]) -> Self {
        Self::with_regions(runs, REGION)
    }

    fn with_regions(runs: &[Run], size: u64) -> Self {
        let mut pending = Self {
            size: Size(size),
            ..Self::default()
        };
        for run in runs {
            let span = Span {
                end: run.end,
                file: run.file,
                offset: run.offset,
                wiped_on_fork: run.wiped_on_fork,
            };
            pending.insert(run.start, span);
        }
        pending
    }

    /// Returns the number of missing bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    pub(super) fn contains(&self, address: u64) -> bool {
        self.span_at(address).is_some()
    }

    fn insert(&mut self, mut start: u64, mut span: Span) {
        self.remove(start..span.end);
        self.wiped_on_fork |= span.wiped_on_fork;
        while start < span.end {
            let region = start / self.size.0;
            let end = region
                .saturating_add(1)
                .saturating_mul(self.size.0)
                .min(span.end);
            let spans = Arc::make_mut(self.regions.entry(region).or_default());
            let at = spans.partition_point(|(other, _)| *other < start);
            spans.insert(at, (start, Span { end, ..span }));
            self.bytes += end - start;
            span.offset += end - start;
            start = end;
        }
    }

    fn span_at(&self, address: u64) -> Option<(u64, Span)> {
        let spans = self.regions.get(&(address / self.size.0))?;
        let at = spans.partition_point(|(start, _)| *start <= address);
        let (start, span) = *spans.get(at.checked_sub(1)?)?;
        (address < span.end).then_some((start, span))
    }

    /// The spans that begin at an address or after it, in ascending order.
    fn from(&self, address: u64) -> impl Iterator<Item = (u64, Span)> {
        self.regions
            .range(address / self.size.0..)
            .flat_map(move |(_, spans)| {
                let first = spans.partition_point(|(start, _)| *start < address);
                spans[first..].iter().copied()
            })
    }

    /// The spans that begin before an address, in descending order.
    fn before(&self, address: u64) -> impl Iterator<Item = (u64, Span)> {
        self.regions
            .range(..=address / self.size.0)
            .rev()
            .flat_map(move |(_, spans)| {
                let end = spans.partition_point(|(start, _)| *start < address);
                spans[..end].iter().rev().copied()
            })
    }

    /// Removes a range and returns its spans.
    fn take(&mut self, range: Range<u64>) -> Vec<(u64, Span)> {
        if range.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let last = (range.end - 1) / self.size.0;
        let regions: Vec<u64> = self
            .regions
            .range(range.start / self.size.0..=last)
            .filter(|(_, spans)| overlaps(spans, &range))
            .map(|(&region, _)| region)
            .collect();
        for region in regions {
            let Some(spans) = self.regions.get_mut(&region) else {
                continue;
            };
            let spans = Arc::make_mut(spans);
            split(spans, range.start);
            split(spans, range.end);
            let first = spans.partition_point(|(start, _)| *start < range.start);
            let end = spans.partition_point(|(start, _)| *start < range.end);
            for (start, span) in spans.drain(first..end) {
                self.bytes -= span.end - start;
                taken.push((start, span));
            }
            if spans.is_empty() {
                self.regions.remove(&region);
            }
        }
        taken
    }

    /// Removes a range, because it is resident or the process has dropped it.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        self.take(range);
    }

    /// Moves a range. Missing memory at the new addresses is dropped.
    pub(super) fn remap(&mut self, from: u64, to: u64, length: u64) {
        let moved = self.take(from..from.saturating_add(length));
        self.remove(to..to.saturating_add(length));
        for (start, span) in moved {
            let place = |address: u64| to.saturating_add(address - from);
            let span = Span {
                end: place(span.end),
                ..span
            };
            self.insert(place(start), span);
        }
    }

    /// Returns the missing memory of a newly forked child.
    pub(super) fn forked(&self) -> Self {
        let mut child = self.clone();
        if !self.wiped_on_fork {
            return child;
        }
        child.wiped_on_fork = false;
        let wiped: Vec<_> = self
            .from(0)
            .filter(|(_, span)| span.wiped_on_fork)
            .map(|(start, span)| start..span.end)
            .collect();
        for range in wiped {
            child.remove(range);
        }
        child
    }

    /// Returns the frame with an address's content, and the missing pieces around the
    /// address whose content is in the same frame. The address's own piece comes first.
    pub(super) fn around(
        &self,
        address: u64,
        frame_size: impl Fn(u32) -> u64,
    ) -> Option<(Frame, Vec<Piece>)> {
        let (start, span) = self.span_at(address)?;
        let size = frame_size(span.file);
        let number = (span.offset + (address - start)) / size;
        let window = number * size..(number + 1) * size;
        let mut pieces = vec![clip(start, span, &window)?];
        let file = span.file;
        let after = self.from(span.end);
        let before = self.before(start);
        for (start, span) in after.take_while(|(_, span)| span.file == file) {
            match clip(start, span, &window).filter(|_| pieces.len() < MAX_PIECES) {
                Some(piece) => pieces.push(piece),
                None => break,
            }
        }
        for (start, span) in before.take_while(|(_, span)| span.file == file) {
            match clip(start, span, &window).filter(|_| pieces.len() < MAX_PIECES) {
                Some(piece) => pieces.push(piece),
                None => break,
            }
        }
        Some((Frame { file, number }, pieces))
    }

    /// Returns the first missing address from this one on.
    pub(super) fn next(&self, address: u64) -> Option<u64> {
        if self.contains(address) {
            return Some(address);
        }
        self.from(address).next().map(|(start, _)| start)
    }

    /// Returns the ranges of a piece that are still missing and still have the piece's
    /// content.
    pub(super) fn of(&self, piece: Piece, file: u32) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        let first = self
            .span_at(piece.start)
            .map_or(piece.start, |(start, _)| start);
        for (start, span) in self.from(first).take_while(|(start, _)| *start < piece.end) {
            let range = start.max(piece.start)..span.end.min(piece.end);
            let same = span.file == file
                && !range.is_empty()
                && span.offset + (range.start - start)
                    == piece.offset + (range.start - piece.start);
            if same {
                found.push(range);
            }
        }
        found
    }
}

fn overlaps(spans: &Spans, range: &Range<u64>) -> bool {
    let end = spans.partition_point(|(start, _)| *start < range.end);
    let last = end.checked_sub(1).map(|last| spans[last]);
    last.is_some_and(|(_, span)| span.end > range.start)
}

/// Splits the span that contains an address, so that a span begins there.
fn split(spans: &mut Spans, at: u64) {
    let next = spans.partition_point(|(start, _)| *start < at);
    let Some((start, span)) = next.checked_sub(1).and_then(|last| spans.get_mut(last)) else {
        return;
    };
    if at < span.end {
        let tail = Span {
            offset: span.offset + (at - *start),
            ..*span
        };
        span.end = at;
        spans.insert(next, (at, tail));
    }
}

/// The part of a span whose content lies in a window of its page file.
fn clip(start: u64, span: Span, window: &Range<u64>) -> Option<Piece> {
    let length = span.end - start;
    let from = span.offset.max(window.start);
    let to = (span.offset + length).min(window.end);
    (from < to).then(|| Piece {
        start: start + (from - span.offset),
        end: start + (to - span.offset),
        offset: from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The offset of each page's content.
    type Model = BTreeMap<u64, (u64, bool)>;

    const PAGES: u64 = 64;
    const FRAME: u64 = 4;

    #[derive(Debug, Clone)]
    enum Step {
        Remove(u64, u64),
        Remap(u64, u64, u64),
        Fork,
        Around(u64),
        Of(u64, u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let page = 0..PAGES;
        let length = 0..12u64;
        prop_oneof![
            (page.clone(), length.clone()).prop_map(|(at, n)| Step::Remove(at, n)),
            (page.clone(), page.clone(), length.clone())
                .prop_map(|(from, to, n)| Step::Remap(from, to, n)),
            Just(Step::Fork),
            page.clone().prop_map(Step::Around),
            (page, 0..2 * PAGES, length).prop_map(|(at, to, n)| Step::Of(at, to, n)),
        ]
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        prop::collection::vec((1..9u64, 0..4u64, any::<bool>()), 0..10).prop_map(|lengths| {
            let mut at = 0;
            let mut offset = 0;
            let mut runs = Vec::new();
            for (length, gap, wiped_on_fork) in lengths {
                let end = (at + length).min(PAGES);
                if at < end {
                    runs.push(Run {
                        start: at,
                        end,
                        file: 0,
                        offset,
                        wiped_on_fork,
                    });
                    offset += end - at + gap / 2;
                }
                at = end + gap;
            }
            runs
        })
    }

    fn model(runs: &[Run]) -> Model {
        let pages = |run: &Run| {
            let run = *run;
            (run.start..run.end).map(move |page| {
                let offset = run.offset + (page - run.start);
                (page, (offset, run.wiped_on_fork))
            })
        };
        runs.iter().flat_map(pages).collect()
    }

    fn flat(pending: &Pending) -> Model {
        let pages = |(start, span): (u64, Span)| {
            (start..span.end)
                .map(move |page| (page, (span.offset + (page - start), span.wiped_on_fork)))
        };
        pending.from(0).flat_map(pages).collect()
    }

    #[test]
    fn a_forked_child_shares_unchanged_regions() {
        // Single pages with gaps between them, over many regions.
        let runs: Vec<Run> = (0..1000)
            .map(|page| Run {
                start: 2 * page,
                end: 2 * page + 1,
                file: 0,
                offset: page,
                wiped_on_fork: false,
            })
            .collect();
        let mut pending = Pending::with_regions(&runs, 100);
        let children: Vec<_> = (0..150).map(|_| pending.forked()).collect();
        let shared = |pending: &Pending, child: &Pending| {
            let regions = pending.regions.iter();
            regions
                .filter(|(region, spans)| {
                    let other = child.regions.get(region);
                    other.is_some_and(|other| Arc::ptr_eq(other, spans))
                })
                .count()
        };
        assert_eq!(shared(&pending, &children[0]), 20);
        // A removal without effect copies no region.
        pending.remove(1..2);
        assert_eq!(shared(&pending, &children[0]), 20);
        pending.remove(0..1);
        assert_eq!(shared(&pending, &children[0]), 19);
        assert!(children.iter().all(|child| child.contains(0)));
        assert_eq!(shared(&children[0], &children[149]), 20);
    }

    proptest! {
        // Pages have one byte here, because the map does not depend on their size.
        #[test]
        fn it_equals_a_map_of_single_pages(
            runs in runs(),
            steps in prop::collection::vec(step(), 0..24),
            region in 1..2 * PAGES,
        ) {
            let mut pending = Pending::with_regions(&runs, region);
            let mut model = model(&runs);
            for step in steps {
                match step {
                    Step::Remove(at, n) => {
                        pending.remove(at..at + n);
                        model.retain(|page, _| !(at..at + n).contains(page));
                    }
                    Step::Remap(from, to, n) => {
                        pending.remap(from, to, n);
                        let moved: Vec<_> = (from..from + n)
                            .filter_map(|page| Some((page - from + to, model.remove(&page)?)))
                            .collect();
                        model.retain(|page, _| !(to..to + n).contains(page));
                        model.extend(moved);
                    }
                    Step::Fork => {
                        pending = pending.forked();
                        model.retain(|_, (_, wiped)| !*wiped);
                    }
                    Step::Around(at) => match pending.around(at, |_| FRAME) {
                        None => prop_assert!(!model.contains_key(&at)),
                        Some((frame, pieces)) => {
                            prop_assert_eq!(model[&at].0 / FRAME, frame.number);
                            let own = pieces[0];
                            prop_assert!((own.start..own.end).contains(&at));
                            for piece in pieces {
                                prop_assert!(piece.start < piece.end);
                                for page in piece.start..piece.end {
                                    let offset = piece.offset + (page - piece.start);
                                    prop_assert_eq!(model[&page].0, offset);
                                    prop_assert_eq!(offset / FRAME, frame.number);
                                }
                            }
                        }
                    },
                    Step::Of(at, offset, n) => {
                        let piece = Piece { start: at, end: at + n, offset };
                        let found: Vec<u64> = pending.of(piece, 0).into_iter().flatten().collect();
                        let expected: Vec<u64> = (at..at + n)
                            .filter(|page| {
                                model.get(page).is_some_and(|(o, _)| *o == offset + (page - at))
                            })
                            .collect();
                        prop_assert_eq!(found, expected);
                    }
                }
                prop_assert_eq!(flat(&pending), model.clone());
                prop_assert_eq!(pending.bytes(), model.len() as u64);
                for page in 0..PAGES {
                    prop_assert_eq!(pending.contains(page), model.contains_key(&page));
                    let next = model.range(page..).next().map(|(page, _)| *page);
                    prop_assert_eq!(pending.next(page), next);
                }
            }
        }
    }
}
