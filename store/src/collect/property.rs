//! Random histories: checkpoints that are written and removed, collections, and
//! collections that are killed.

use std::collections::HashSet;

use proptest::prelude::*;

use super::compact::Copy;
use super::tests::{GRACE, is_empty, later};
use super::*;
use crate::catalogue::CheckpointId;
use crate::fixture::{Fixture, Written, memory};

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// A checkpoint of some container, some pages of which changed.
    Write {
        container: u32,
        pages: u32,
        changed: u32,
    },
    /// The directory of the checkpoint with this number among the written ones.
    Remove(usize),
    /// A collection, before or after the grace time.
    Collect { late: bool },
    /// A collection that is killed after one of its steps.
    Killed(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u32..3, 20u32..150, 0u32..20).prop_map(|(container, pages, changed)| {
            Event::Write { container, pages, changed }
        }),
        2 => any::<prop::sample::Index>().prop_map(|index| Event::Remove(index.index(1 << 20))),
        2 => any::<bool>().prop_map(|late| Event::Collect { late }),
        1 => (0u8..4).prop_map(Event::Killed),
    ]
}

/// A store, and which of its checkpoints are referred to.
struct History {
    fixture: Fixture,
    written: Vec<(Written, bool)>,
    /// How far the clock was set ahead, in seconds.
    clock: i64,
}

impl History {
    fn referenced(&self) -> HashSet<CheckpointId> {
        let kept = self.written.iter().filter(|(_, kept)| *kept);
        kept.map(|(one, _)| one.id.clone()).collect()
    }

    fn collect(&mut self, seconds: i64) {
        self.clock += seconds;
        let kept = self.referenced();
        later(&self.fixture, self.clock, |row: &CheckpointRow| {
            match row.id.as_ref().is_some_and(|id| kept.contains(id)) {
                true => Reference::Referenced,
                false => Reference::Gone,
            }
        });
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Write {
                container,
                pages,
                changed,
            } => {
                let base = container * 10_000 + 1;
                let seeds = (0..*pages).map(|page| match page % 7 == 3 && page < *changed * 7 {
                    true => base + page + changed * 1_000_000,
                    false => base + page,
                });
                let name = format!("c{}", self.written.len());
                let one = self.fixture.write(&name, &memory(seeds));
                self.written.push((one, true));
            }
            Event::Remove(number) => {
                let most = self.written.len().max(1);
                if let Some((_, kept)) = self.written.get_mut(number % most) {
                    *kept = false;
                }
            }
            Event::Collect { late } => {
                self.collect(if *late {
                    GRACE.as_secs() as i64 + 10
                } else {
                    0
                });
            }
            Event::Killed(step) => self.killed(*step),
        }
    }

    /// What a collection has done when it is killed.
    fn killed(&self, step: u8) {
        let store = &self.fixture.store;
        let mut catalogue = self.fixture.catalogue();
        let kept = self.referenced();
        for row in catalogue.rows().expect("rows") {
            if !row.id.as_ref().is_some_and(|id| kept.contains(id)) {
                catalogue.remove_row(&row).expect("removed");
            }
        }
        let live = catalogue.live(&HashSet::new()).expect("live");
        let dead = catalogue.dead(&live).expect("dead");
        if step == 0 {
            return catalogue
                .forget(&dead[..dead.len() / 2])
                .expect("forgotten");
        }
        catalogue.forget(&dead).expect("forgotten");
        let empty = catalogue.empty_packs().expect("packs");
        catalogue.forget_packs(&empty).expect("forgotten");
        if step == 1 {
            return;
        }
        // All packs are compacted, whatever they hold.
        let mut copy = Copy::new(store).expect("a copy");
        for pack in catalogue.packs().expect("packs") {
            let copied = copy
                .pack(store, &mut catalogue, &pack, &live)
                .expect("copied");
            copied.expect("undamaged");
        }
        copy.drafts.end().expect("ended");
        let packs = match step {
            2 => Vec::new(),
            _ => copy.drafts.publish(store).expect("published"),
        };
        // A killed process runs no destructor, but the kernel drops its locks.
        copy.drafts.abandon();
        if !packs.is_empty() {
            catalogue.move_chunks(&packs, &copy.moved).expect("moved");
        }
    }

    fn check(&self) {
        for (one, kept) in &self.written {
            if *kept {
                let read = self.fixture.read(&one.list);
                assert!(read.expect("it is referenced") == one.raw, "another memory");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_is_referred_to_stays_and_the_rest_goes(
        events in prop::collection::vec(event(), 1..12),
    ) {
        let mut history = History { fixture: Fixture::new(), written: Vec::new(), clock: 0 };
        for event in &events {
            history.happens(event);
            history.check();
        }
        // What killed collections left is removed by one, and what that made unused.
        let after = GRACE.as_secs() as i64 + 10;
        history.collect(after);
        history.check();
        let rows = history.fixture.catalogue().rows().expect("rows").len();
        prop_assert_eq!(rows, history.referenced().len());
        for (_, kept) in &mut history.written {
            *kept = false;
        }
        history.collect(after);
        prop_assert!(is_empty(&history.fixture));
    }
}
