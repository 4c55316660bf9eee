use std::fs::{self, File};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::*;
use crate::fixture::{Fixture, Written, memory};
use crate::pack::PackId;

pub(super) const GRACE: Duration = Duration::from_secs(3600);
const OPTIONS: Options = Options {
    grace: GRACE,
    dry_run: false,
};

fn gone(_: &CheckpointRow) -> Reference {
    Reference::Gone
}

fn found(_: &CheckpointRow) -> Reference {
    Reference::Referenced
}

fn run(fixture: &Fixture, mut references: impl FnMut(&CheckpointRow) -> Reference) -> Report {
    collect(&fixture.store, &mut references, OPTIONS).expect("collected")
}

/// A collection after so many seconds.
pub(super) fn later(
    fixture: &Fixture,
    seconds: i64,
    mut references: impl FnMut(&CheckpointRow) -> Reference,
) -> Report {
    let mut now = Moment::now();
    now.seconds += seconds;
    now.since_boot += seconds;
    collect_at(&fixture.store, &mut references, OPTIONS, &now).expect("collected")
}

/// A collection for which these checkpoints are referred to and all others are gone.
fn keep(fixture: &Fixture, kept: &[&Written]) -> Report {
    run(fixture, |row| {
        match kept.iter().any(|kept| Some(&kept.id) == row.id.as_ref()) {
            true => Reference::Referenced,
            false => Reference::Gone,
        }
    })
}

pub(super) fn is_empty(fixture: &Fixture) -> bool {
    let mut catalogue = fixture.catalogue();
    let is_none = |query: &str, catalogue: &mut crate::catalogue::Catalogue| {
        catalogue
            .connection()
            .query_row(query, [], |row| row.get::<_, i64>(0))
            == Ok(0)
    };
    let tables = ["checkpoints", "chunks", "packs", "sketches", "lost"];
    let tables = tables
        .iter()
        .all(|table| is_none(&format!("SELECT count(*) FROM {table}"), &mut catalogue));
    tables && fixture.packs().is_empty() && fixture.files("incoming").is_empty()
}

#[test]
fn a_checkpoint_that_is_gone_is_kept_for_the_grace_time() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..200));
    let report = run(&fixture, gone);
    assert_eq!((report.in_grace, report.has_removed()), (1, false));
    fixture.age(&one.id, 3500);
    assert!(!run(&fixture, gone).has_removed());
    fixture.age(&one.id, 200);
    let report = run(&fixture, gone);
    assert_eq!(report.removed.len(), 1);
    assert_eq!(report.removed[0].id.as_ref(), Some(&one.id));
    assert!(
        report.packs == 1 && report.freed_bytes > 100_000,
        "{report:?}"
    );
    assert!(is_empty(&fixture));
    assert!(!run(&fixture, gone).has_removed());
}

#[test]
fn the_grace_time_begins_when_a_checkpoint_was_last_seen() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..100));
    fixture.age(&one.id, 10_000);
    assert_eq!(run(&fixture, found).referenced, 1);
    assert_eq!(run(&fixture, gone).in_grace, 1);
    fixture.age(&one.id, 3700);
    assert_eq!(run(&fixture, gone).removed.len(), 1);
}

#[test]
fn unknown_pinned_and_tagged_checkpoints_are_kept() {
    let fixture = Fixture::new();
    let written: Vec<Written> = (0..3)
        .map(|n| fixture.write(&format!("c{n}"), &memory(n * 100 + 1..n * 100 + 100)))
        .collect();
    let mut catalogue = fixture.catalogue();
    for (query, n) in [
        (
            "INSERT INTO pins SELECT number FROM checkpoints WHERE id = ?1",
            0,
        ),
        (
            "INSERT INTO tags SELECT 'it', number FROM checkpoints WHERE id = ?1",
            1,
        ),
    ] {
        let set = catalogue
            .connection()
            .execute(query, [written[n].id.as_str()]);
        assert_eq!(set, Ok(1));
    }
    for one in &written {
        fixture.age(&one.id, 1_000_000);
    }
    let report = run(&fixture, |row| {
        match row.id.as_ref() == Some(&written[2].id) {
            true => Reference::Unknown("the disk is not mounted".to_owned()),
            false => Reference::Gone,
        }
    });
    assert!(!report.has_removed(), "{report:?}");
    assert_eq!(report.unknown.len(), 1);
    for one in &written {
        assert_eq!(fixture.read(&one.list).expect("read"), one.raw);
    }
}

#[test]
fn chunks_that_another_checkpoint_shares_stay() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..1000));
    // Half of it is the same, and another part is a patch.
    let changed = (1..1000).map(|page| {
        if page > 500 && page % 40 == 0 {
            page + 5000
        } else {
            page
        }
    });
    let two = fixture.write("two", &memory(changed));
    fixture.age(&one.id, 10_000);
    fixture.age(&two.id, 10_000);
    assert_eq!(keep(&fixture, &[&two]).removed.len(), 1);
    assert_eq!(fixture.read(&two.list).expect("read"), two.raw);
    fixture.age(&two.id, 10_000);
    keep(&fixture, &[]);
    assert!(is_empty(&fixture));
}

#[test]
fn two_nodes_that_were_cloned_with_one_store_go_their_own_ways() {
    let here = Fixture::new();
    let one = here.write("one", &memory(1..1000));
    let two = here.write("two", &memory(500..1500));
    // The other node's store, as of a copied disk.
    let there = Fixture::new();
    for dir in ["packs", ""] {
        let (from, to) = [&here, &there]
            .map(|node| node.store.path().join(dir))
            .into();
        for entry in std::fs::read_dir(&from).expect("list") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let copy = to.join(path.file_name().expect("a name"));
                std::fs::copy(&path, copy).expect("copy");
            }
        }
    }
    for (node, kept, later) in [(&here, &one, 2000..2600), (&there, &two, 2300..3000)] {
        let new = node.write("new", &memory(later));
        for old in [&one, &two] {
            node.age(&old.id, 10_000);
        }
        assert_eq!(keep(node, &[kept, &new]).removed.len(), 1);
        assert_eq!(node.read(&kept.list).expect("read"), kept.raw);
        assert_eq!(node.read(&new.list).expect("read"), new.raw);
    }
    // What one of them has taken is not on the other.
    let new = here.write("newer", &memory(5000..5300));
    let missing = there.read(&new.list).expect_err("elsewhere");
    assert!(missing.to_string().contains("another store"), "{missing}");
}

#[test]
fn a_dry_run_tells_what_a_run_removes_and_changes_nothing() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..1000));
    let two = fixture.write("two", &memory(900..1300));
    fixture.age(&one.id, 10_000);
    let mut references = |row: &CheckpointRow| match row.id.as_ref() == Some(&two.id) {
        true => Reference::Referenced,
        false => Reference::Gone,
    };
    let before = fixture.packs();
    let options = Options {
        dry_run: true,
        ..OPTIONS
    };
    let told = collect(&fixture.store, &mut references, options).expect("collected");
    assert_eq!(before, fixture.packs());
    assert_eq!(fixture.read(&one.list).expect("read"), one.raw);
    assert!(
        fixture
            .catalogue()
            .rows()
            .expect("rows")
            .iter()
            .all(|row| row.seen.is_none())
    );
    let done = keep(&fixture, &[&two]);
    assert_eq!((told.removed, told.chunks), (done.removed, done.chunks));
    assert_eq!((told.packs, told.compacted), (done.packs, done.compacted));
}

#[test]
fn a_session_keeps_the_chunks_that_it_found() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..500));
    fixture.age(&one.id, 10_000);
    let (session, list) = fixture.begin(&memory(1..500));
    let report = run(&fixture, gone);
    assert!(report.is_busy && report.chunks == 0, "{report:?}");
    assert_eq!(report.removed.len(), 1);
    let id = crate::catalogue::CheckpointId::random().expect("an ID");
    session
        .publish(&fixture.checkpoint(&id, "two", &one.raw))
        .expect("published");
    drop(session);
    assert!(!run(&fixture, found).has_removed());
    assert_eq!(fixture.read(&list).expect("read"), one.raw);
}

#[test]
fn another_collection_is_not_disturbed() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..100));
    fixture.age(&one.id, 10_000);
    let collecting = fixture.store.collecting().expect("locked").expect("free");
    let report = run(&fixture, gone);
    assert!(report.is_busy && !report.has_removed());
    drop(collecting);
    assert!(run(&fixture, gone).has_removed());
}

#[test]
fn a_pack_that_is_mostly_unused_is_written_again() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..3000));
    let before = fixture.packs();
    let two = fixture.write("two", &memory(1..600));
    fixture.age(&one.id, 10_000);
    let report = keep(&fixture, &[&two]);
    assert_eq!(report.compacted, 1, "{report:?}");
    assert!(report.freed_bytes > 2000 * 4096, "{report:?}");
    let after = fixture.packs();
    assert!(!after.contains(&before[0]), "{after:?}");
    // The lists name the old pack.
    assert_eq!(fixture.read(&two.list).expect("read"), two.raw);
    // A new checkpoint finds the moved chunks, also as bases.
    let changed = (1..600).map(|page| if page % 50 == 0 { page + 9000 } else { page });
    let three = fixture.write("three", &memory(changed));
    assert!(three.list.chunks.iter().any(|chunk| chunk.base.is_some()));
    assert!(!keep(&fixture, &[&two, &three]).has_removed());
    assert_eq!(fixture.read(&three.list).expect("read"), three.raw);
}

#[test]
fn memory_that_is_open_stays_readable_while_its_packs_are_removed() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..600));
    let open = crate::memory::Memory::open(&fixture.store, &one.list).expect("open");
    fixture.age(&one.id, 10_000);
    run(&fixture, gone);
    assert!(fixture.packs().is_empty());
    let mut bytes = vec![0; open.range(0).end as usize];
    let mut decoder = crate::pack::Decoder::default();
    open.decode(0, &mut decoder, &mut bytes).expect("decoded");
    assert_eq!(bytes, one.raw[..bytes.len()]);
}

#[test]
fn many_small_packs_are_joined() {
    let fixture = Fixture::new();
    let written: Vec<Written> = (0..20)
        .map(|n| fixture.write(&format!("c{n}"), &memory(n * 50 + 1..n * 50 + 50)))
        .collect();
    assert_eq!(fixture.packs().len(), 20);
    let report = run(&fixture, found);
    assert_eq!((report.compacted, fixture.packs().len()), (20, 1));
    for one in &written {
        assert_eq!(fixture.read(&one.list).expect("read"), one.raw);
    }
    assert!(!run(&fixture, found).has_removed());
}

#[test]
fn memory_that_compresses_to_nothing_is_not_written_again_and_again() {
    let fixture = Fixture::new();
    // A page that repeats a word is no page of zeros.
    let raw: Vec<u8> = (0..3000u32)
        .flat_map(|page| vec![page as u8 | 1; 4096])
        .collect();
    fixture.write("one", &raw);
    assert!(!run(&fixture, found).has_removed());
}

#[test]
fn damaged_chunks_are_not_copied_and_stay_where_they_are() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..3000));
    let pack = &fixture.packs()[0];
    let two = fixture.write("two", &memory(1..600));
    fixture.age(&one.id, 10_000);
    let mut bytes = fs::read(pack).expect("read");
    bytes[1000] ^= 1;
    fs::write(pack, bytes).expect("write");
    let report = keep(&fixture, &[&two]);
    assert!(report.damaged[0].contains("damaged"), "{report:?}");
    assert!(pack.exists());
    assert_eq!(fixture.packs().len(), 3, "the good chunks were copied");
    let left = fixture
        .catalogue()
        .live_bytes(&fixture.catalogue().live(&Default::default()).expect("live"));
    assert_eq!(left.expect("bytes").len(), 3);
}

#[test]
fn drafts_of_killed_writers_are_removed() {
    let fixture = Fixture::new();
    fixture.catalogue();
    let draft = |age: u64| {
        let id = PackId::random().expect("an ID");
        let path = fixture.store.incoming().join(id.file_name());
        let file = File::create(&path).expect("made");
        let then = std::time::SystemTime::now() - Duration::from_secs(age);
        file.set_modified(then).expect("dated");
        (path, file)
    };
    let (young, _) = draft(10);
    let (old, _) = draft(400);
    let (ancient, _) = draft(1_000_000_000);
    let (written, file) = draft(500);
    let _lock = Flock::lock(file, FlockArg::LockExclusive).expect("locked");
    let report = run(&fixture, gone);
    assert_eq!(report.leftovers, 2);
    assert!(young.exists() && written.exists() && !old.exists() && !ancient.exists());
}

#[test]
fn a_pack_that_the_catalogue_does_not_know_is_removed_after_the_grace_time() {
    let fixture = Fixture::new();
    // As a session leaves it that is killed between its rename and its transaction.
    let (session, _) = fixture.begin(&memory(1..100));
    let draft = &fixture.files("incoming")[0];
    let kept = fixture
        .store
        .path()
        .join("packs")
        .join(draft.file_name().expect("a name"));
    fs::rename(draft, &kept).expect("moved");
    drop(session);
    assert!(!run(&fixture, gone).has_removed());
    assert_eq!(later(&fixture, 3500, gone).leftovers, 0);
    assert_eq!(later(&fixture, 3700, gone).leftovers, 1);
    assert!(is_empty(&fixture));
}

#[test]
fn packs_of_a_lost_catalogue_are_left_for_a_repair() {
    let fixture = Fixture::new();
    fixture.write("one", &memory(1..100));
    let packs = fixture.packs();
    for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _ = fs::remove_file(fixture.store.path().join(file));
    }
    let mut catalogue = fixture.catalogue();
    let younger = "UPDATE made SET seconds = seconds + 10";
    assert_eq!(catalogue.connection().execute(younger, []), Ok(1));
    let report = later(&fixture, 1_000_000, gone);
    assert_eq!((report.unknown_packs, report.leftovers), (1, 0));
    assert_eq!(fixture.packs(), packs);
}

#[test]
fn nothing_is_removed_if_a_checkpoints_chunks_are_unreadable() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..100));
    let broken = "UPDATE checkpoints SET chunks = x'80'";
    assert_eq!(fixture.catalogue().connection().execute(broken, []), Ok(1));
    let error = collect(&fixture.store, &mut { found }, OPTIONS).expect_err("refused");
    assert!(
        error.to_string().contains("store check --repair"),
        "{error}"
    );
    assert_eq!(fixture.read(&one.list).expect("read"), one.raw);
}

#[test]
fn a_checkpoint_of_a_job_is_removed_by_the_daemon_alone() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..200));
    let mut catalogue = fixture.catalogue();
    let changed = catalogue.connection().execute_batch(
        "UPDATE checkpoints SET uid = 5, job = 'a';
         INSERT INTO checkpoints (uid, job, path, created, boot, boot_time, raw_bytes, bytes,
             subject, details) VALUES (5, 'a', x'2f62', 1, '', 0, 0, 9, '{}', '{}');",
    );
    changed.expect("changed");
    let report = later(&fixture, 1_000_000, gone);
    // The second one holds its memory itself: the store has nothing to say of it.
    assert_eq!((report.checkpoints, report.unknown.len()), (1, 0));
    assert!(!report.has_removed(), "{report:?}");
    assert_eq!(catalogue.rows().expect("rows").len(), 2);
    let released = catalogue.connection().execute(
        "UPDATE checkpoints SET uid = 0, job = NULL WHERE id IS NOT NULL",
        [],
    );
    assert_eq!(released, Ok(1));
    let report = later(&fixture, 1_000_000, gone);
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert_eq!(report.removed[0].id.as_ref(), Some(&one.id));
}

#[test]
fn a_checkpoint_that_becomes_a_jobs_meanwhile_is_kept() {
    let fixture = Fixture::new();
    fixture.write("one", &memory(1..200));
    let mut catalogue = fixture.catalogue();
    let row = catalogue.rows().expect("rows").remove(0);
    let query = "UPDATE checkpoints SET job = 'a'";
    assert_eq!(catalogue.connection().execute(query, []), Ok(1));
    assert!(!catalogue.remove_row(&row).expect("asked"));
}
