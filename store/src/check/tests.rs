use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::fixture::{Fixture, Written, memory};

fn run(fixture: &Fixture, repair: bool, found: &[&Written]) -> Outcome {
    let seen = AtomicU64::new(0);
    let find = |_: &[PathBuf]| {
        let found = found.iter().map(|one| FoundCheckpoint {
            checkpoint: fixture.checkpoint(&one.id, "found", &one.raw),
            lists: vec![one.list.clone()],
        });
        found.collect()
    };
    let options = Options {
        repair,
        threads: 2,
        progress: &|progress| {
            assert!(progress.done <= progress.total);
            seen.fetch_add(1, Ordering::Relaxed);
        },
        find_checkpoints: &find,
    };
    let outcome = check(&fixture.store, &options).expect("checked");
    assert_eq!(seen.load(Ordering::Relaxed), outcome.packs);
    outcome
}

fn is_whole(fixture: &Fixture, one: &Written) -> bool {
    fixture.read(&one.list).is_ok_and(|raw| raw == one.raw)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
}

/// Two checkpoints, the second of which has patches on the first's chunks and some memory
/// of its own.
fn two(fixture: &Fixture) -> (Written, Written) {
    let one = fixture.write("one", &memory(1..1500));
    let changed = (1..1800).map(|page| if page % 60 == 0 { page + 9000 } else { page });
    let two = fixture.write("two", &memory(changed));
    assert!(two.list.chunks.iter().any(|chunk| chunk.base.is_some()));
    (one, two)
}

fn damaged_checkpoints(outcome: &Outcome) -> usize {
    let is_checkpoint = |finding: &&Finding| matches!(finding, Finding::Checkpoint { .. });
    outcome.findings.iter().filter(is_checkpoint).count()
}

#[test]
fn a_good_store_has_no_findings() {
    let fixture = Fixture::new();
    two(&fixture);
    let outcome = run(&fixture, false, &[]);
    assert!(!outcome.is_damaged(), "{outcome:?}");
    assert_eq!(outcome.packs, 2);
    assert!(outcome.chunks > 6);
    assert_eq!(run(&fixture, true, &[]), outcome);
}

#[test]
fn a_damaged_chunk_is_forgotten_and_mends_when_it_is_stored_again() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..1500));
    let pack = fixture.packs().remove(0);
    let other = fixture.write("other", &memory(20_000..20_200));
    flip(&pack, 5000);
    let found = run(&fixture, false, &[]);
    assert_eq!(damaged_checkpoints(&found), 1);
    assert!(found.is_damaged() && pack.exists());
    let repaired = run(&fixture, true, &[]);
    assert_eq!(damaged_checkpoints(&repaired), 1, "{repaired:?}");
    assert!(repaired.is_damaged(), "its memory is lost");
    assert!(!pack.exists());
    let error = fixture.read(&one.list).expect_err("lost").to_string();
    assert!(error.contains("is not in the store"), "{error}");
    assert!(is_whole(&fixture, &other));
    // Another run finds the same checkpoint, and no other damage.
    let again = run(&fixture, true, &[]);
    assert_eq!((again.findings.len(), damaged_checkpoints(&again)), (1, 1));
    // The same memory is stored again, and the rest of it was kept.
    let third = fixture.write("third", &one.raw);
    assert!(is_whole(&fixture, &third) && is_whole(&fixture, &one));
    assert!(!run(&fixture, false, &[]).is_damaged());
    assert!(fixture.catalogue().lost().expect("lost").is_empty());
}

#[test]
fn a_damaged_base_damages_the_patches_on_it() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..1500));
    let pack = fixture.packs().remove(0);
    let changed = (1..1500).map(|page| if page % 60 == 9 { page + 9000 } else { page });
    let two = fixture.write("two", &memory(changed));
    let first = two.list.runs[0].chunk.expect("a chunk");
    assert!(two.list.chunks[first as usize].base.is_some());
    flip(&pack, 5000);
    assert_eq!(damaged_checkpoints(&run(&fixture, false, &[])), 2);
    assert_eq!(damaged_checkpoints(&run(&fixture, true, &[])), 2);
    let third = fixture.write("third", &two.raw);
    assert!(is_whole(&fixture, &third) && is_whole(&fixture, &two));
    assert!(!is_whole(&fixture, &one));
}

#[test]
fn a_damaged_end_is_written_again_without_loss() {
    let fixture = Fixture::new();
    let (one, two) = two(&fixture);
    for pack in fixture.packs() {
        let length = fs::metadata(&pack).expect("metadata").len();
        flip(&pack, length - 400);
    }
    let outcome = run(&fixture, true, &[]);
    assert_eq!(outcome.findings.len(), 2, "{outcome:?}");
    assert!(!outcome.is_damaged());
    assert!(is_whole(&fixture, &one) && is_whole(&fixture, &two));
    assert!(run(&fixture, false, &[]).findings.is_empty());
}

#[test]
fn a_missing_pack_damages_its_checkpoints_only() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..400));
    let pack = fixture.packs().remove(0);
    let two = fixture.write("two", &memory(5000..5400));
    fs::remove_file(pack).expect("removed");
    let outcome = run(&fixture, true, &[]);
    assert_eq!(damaged_checkpoints(&outcome), 1);
    assert!(
        outcome
            .findings
            .iter()
            .any(|finding| finding.to_string().contains("missing"))
    );
    assert!(is_whole(&fixture, &two) && !is_whole(&fixture, &one));
    let again = run(&fixture, true, &[]);
    assert_eq!(again.findings.len(), 1, "{again:?}");
}

/// Breaks the catalogue in a way, and expects that a repair makes it again.
fn made_again(break_it: impl Fn(&Fixture)) {
    let fixture = Fixture::new();
    let (one, two) = two(&fixture);
    let before = fixture.files("").len();
    break_it(&fixture);
    assert!(run(&fixture, false, &[]).is_damaged());
    let outcome = run(&fixture, true, &[&one, &two, &two]);
    assert!(!outcome.is_damaged(), "{outcome:?}");
    assert!(
        outcome.repaired[0].contains("2 packs and 2 checkpoints"),
        "{outcome:?}"
    );
    assert!(is_whole(&fixture, &one) && is_whole(&fixture, &two));
    assert!(!run(&fixture, false, &[]).is_damaged());
    assert!(
        fixture.files("").len() >= before - 2,
        "the old one is put aside"
    );
    // Similar memory is found as before, and what is known is not stored again.
    let changed = (1..1500).map(|page| if page % 50 == 7 { page + 80_000 } else { page });
    let packs = fixture.packs().len();
    let again = fixture.write("again", &one.raw);
    assert_eq!(fixture.packs().len(), packs);
    let patched = fixture.write("patched", &memory(changed));
    assert!(patched.list.chunks.iter().any(|chunk| chunk.base.is_some()));
    assert!(is_whole(&fixture, &again) && is_whole(&fixture, &patched));
}

#[test]
fn a_damaged_catalogue_is_made_again() {
    made_again(|fixture| {
        // SQLite writes it from its log when it is closed.
        fixture.catalogue();
        let path = fixture.store.path().join(FILE);
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        file.write_all_at(&[0x5A; 8192], 4096).expect("write");
    });
    made_again(|fixture| {
        fs::write(fixture.store.path().join(FILE), "something else, longer than a header of SQLite, which has a hundred bytes, so that it is read as one").expect("write");
    });
}

#[test]
fn a_lost_catalogue_is_made_again() {
    made_again(|fixture| fs::remove_file(fixture.store.path().join(FILE)).expect("removed"));
}

#[test]
fn a_catalogue_that_was_lost_unnoticed_is_made_again() {
    made_again(|fixture| {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(fixture.store.path().join(format!("{FILE}{suffix}")));
        }
        let later = "UPDATE made SET seconds = seconds + 10";
        let mut new = fixture.catalogue();
        assert_eq!(new.connection().execute(later, []), Ok(1));
    });
}

#[test]
fn chunks_of_checkpoints_that_are_not_found_are_kept_until_a_person_removes_them() {
    let fixture = Fixture::new();
    let (one, two) = two(&fixture);
    fs::remove_file(fixture.store.path().join(FILE)).expect("removed");
    let outcome = run(&fixture, true, &[&one]);
    assert!(outcome.repaired[1].contains("--recovered"), "{outcome:?}");
    let mut gone = |_: &crate::catalogue::CheckpointRow| crate::collect::Reference::Gone;
    let options = crate::collect::Options {
        grace: std::time::Duration::from_secs(3600),
        dry_run: false,
    };
    let report = crate::collect::collect(&fixture.store, &mut gone, options).expect("collected");
    assert_eq!(report.chunks, 0, "{report:?}");
    assert!(is_whole(&fixture, &two));
    assert_eq!(fixture.catalogue().remove_recovered().ok(), Some(true));
    assert_eq!(fixture.catalogue().remove_recovered().ok(), Some(false));
    let report = crate::collect::collect(&fixture.store, &mut gone, options).expect("collected");
    assert!(report.chunks > 0);
    assert!(is_whole(&fixture, &one) && !is_whole(&fixture, &two));
}

#[test]
fn a_pack_that_cannot_be_told_is_put_aside() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..400));
    let pack = fixture.packs().remove(0);
    let two = fixture.write("two", &memory(5000..5400));
    fs::remove_file(fixture.store.path().join(FILE)).expect("removed");
    let length = fs::metadata(&pack).expect("metadata").len();
    flip(&pack, length - 1);
    let outcome = run(&fixture, true, &[&one, &two]);
    assert_eq!(damaged_checkpoints(&outcome), 1);
    assert!(is_whole(&fixture, &two) && pack.with_extension("pack.damaged").exists());
    assert_eq!(run(&fixture, true, &[]).findings.len(), 1);
}

#[test]
fn a_newer_catalogue_is_left_as_it_is() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..100));
    let newer = "PRAGMA user_version = 1000";
    fixture
        .catalogue()
        .connection()
        .execute_batch(newer)
        .expect("set");
    let options = Options {
        repair: true,
        threads: 1,
        progress: &|_| {},
        find_checkpoints: &|_| Vec::new(),
    };
    let error = check(&fixture.store, &options)
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("version 1000") && error.contains("update"),
        "{error}"
    );
    assert!(is_whole(&fixture, &one));
}

#[test]
fn a_store_in_use_is_not_repaired_beneath_a_session() {
    let fixture = Fixture::new();
    fixture.write("one", &memory(1..100));
    let pack = fixture.packs().remove(0);
    flip(&pack, 100);
    let (session, _) = fixture.begin(&memory(300..400));
    let options = Options {
        repair: true,
        threads: 1,
        progress: &|_| {},
        find_checkpoints: &|_| Vec::new(),
    };
    let error = check(&fixture.store, &options)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("in use"), "{error}");
    drop(session);
    check(&fixture.store, &options).expect("repaired");
}

#[test]
fn a_repair_takes_over_the_checkpoints_of_jobs() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..1500));
    let mut catalogue = fixture.catalogue();
    let changed = catalogue.connection().execute_batch(
        "UPDATE checkpoints SET uid = 5, job = 'a', microseconds = 7;
         INSERT INTO checkpoints (uid, job, path, created, boot, boot_time, raw_bytes, bytes,
             subject, details) VALUES (5, 'b', x'2f62', 1, '', 0, 0, 9, '{}', '{}');
         UPDATE packs SET bytes = 1;
         INSERT INTO sketches VALUES (1, 999999);
         PRAGMA foreign_keys = OFF;
         INSERT INTO pins VALUES (999999);",
    );
    changed.expect("changed");
    drop(catalogue);
    let outcome = run(&fixture, true, &[&one]);
    let repaired = outcome.repaired.join("; ");
    assert!(repaired.contains("2 checkpoints of jobs"), "{repaired}");
    let rows = fixture.catalogue().rows().expect("rows");
    let jobs: Vec<_> = rows
        .iter()
        .map(|row| (row.uid, row.job.as_deref(), row.id.is_some()))
        .collect();
    assert_eq!(jobs, [(5, Some("a"), true), (5, Some("b"), false)]);
    assert!(is_whole(&fixture, &one));
}
