use super::*;
use proptest::prelude::*;

/// The offset of each page's content.
type Model = BTreeMap<u64, (u64, bool)>;

const PAGES: u64 = 64;

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

/// Frames of four pages and of one in turn: chunks have any length.
fn frame_at(_: u32, offset: u64) -> (u64, Range<u64>) {
    let (pair, start) = (offset / 5, offset / 5 * 5);
    match offset - start {
        0..4 => (2 * pair, start..start + 4),
        _ => (2 * pair + 1, start + 4..start + 5),
    }
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
                Step::Around(at) => match pending.around(at, frame_at) {
                    None => prop_assert!(!model.contains_key(&at)),
                    Some((frame, pieces)) => {
                        prop_assert_eq!(frame_at(0, model[&at].0).0, frame.number);
                        let own = pieces[0];
                        prop_assert!((own.start..own.end).contains(&at));
                        for piece in pieces {
                            prop_assert!(piece.start < piece.end);
                            for page in piece.start..piece.end {
                                let offset = piece.offset + (page - piece.start);
                                prop_assert_eq!(model[&page].0, offset);
                                prop_assert_eq!(frame_at(0, offset).0, frame.number);
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
