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
/// with gaps between them has 64, a chunk of 1 MiB has 256.
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
    /// `frame_at` returns the number and the range of the frame with an offset in a file.
    pub(super) fn around(
        &self,
        address: u64,
        frame_at: impl Fn(u32, u64) -> (u64, Range<u64>),
    ) -> Option<(Frame, Vec<Piece>)> {
        let (start, span) = self.span_at(address)?;
        let (number, window) = frame_at(span.file, span.offset + (address - start));
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
mod tests;
