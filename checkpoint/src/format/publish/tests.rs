use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::recover::{INVENTORY, NEW, PARENT, recover};
use super::steps::kill::STEPS;
use super::steps::{file_name, list};
use super::{Durability, Error, Staging};
use crate::format::manifest::{
    self, Container, Cost, Entry, FORMAT, Kind, Machine, Manifest, Versions,
};

fn write(dir: &Path, names: &[&str], text: &str) {
    for name in names {
        fs::write(dir.join(name), text).expect("write");
    }
}

fn contents(dir: &Path) -> BTreeMap<String, String> {
    list(dir)
        .expect("dir")
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            (file_name(path), text)
        })
        .collect()
}

fn holds(dir: &Path, pairs: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = pairs
        .iter()
        .map(|&(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    assert_eq!(contents(dir), expected);
}

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        created: 0,
        files: Vec::new(),
        parent: None,
        machine: Machine::default(),
        versions: Versions::default(),
        container: Container::default(),
        options: BTreeMap::new(),
        cost: Cost::default(),
    }
}

/// An older checkpoint, in another format than the new one, and a foreign file.
fn older() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let names = [
        "inventory.img",
        "core-1.img",
        "pages-1.img",
        "descriptors.json",
    ];
    write(dir.path(), &names, "old");
    write(dir.path(), &["note"], "old");
    dir
}

const OLD: [(&str, &str); 5] = [
    ("core-1.img", "old"),
    ("descriptors.json", "old"),
    ("inventory.img", "old"),
    ("note", "old"),
    ("pages-1.img", "old"),
];

const NEW_NAMES: [&str; 3] = ["inventory.img", "core-1.img", "pages-1.img.zst"];

fn is_new(dir: &Path) {
    let mut found = contents(dir);
    let manifest = found.remove(manifest::NAME);
    assert!(manifest.is_some_and(|text| text.contains("\"format\": 1")));
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let mut expected = NEW_NAMES.to_vec();
    expected.sort_unstable();
    expected.push("note");
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(NEW_NAMES.iter().all(|name| found[*name] == "new"));
}

#[test]
fn abandoning_removes_only_new_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let made = dir.path().join("a/b");
    let new = Staging::prepare(&made, Durability::Disk).expect("staging");
    for dir in [&made, &made.join(NEW)] {
        let mode = fs::metadata(dir).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    write(new.place(), &["core-1.img"], "");
    // A log, if CRIU's work directory is the same.
    write(&made, &["dump.log"], "");
    new.abandon().expect("remove");
    assert!(!made.exists());

    let empty = tempfile::tempdir().expect("tempdir");
    let staging = Staging::prepare(empty.path(), Durability::Disk).expect("staging");
    write(empty.path(), &["core-1.img"], "");
    fs::create_dir(empty.path().join("d")).expect("mkdir");
    drop(staging);
    holds(empty.path(), &[]);

    let dir = older();
    let staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "half");
    write(dir.path(), &["dump.log"], "why");
    staging.abandon().expect("remove");
    fs::remove_file(dir.path().join("dump.log")).expect("a log that was kept");
    holds(dir.path(), &OLD);
}

#[test]
fn an_older_checkpoint_stays_until_the_new_one_is_complete() {
    let dir = older();
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "new");
    assert_eq!(contents(dir.path()).len(), OLD.len() + 1);
    staging.publish(Some(&manifest())).expect("publish");
    is_new(dir.path());
}

#[test]
fn a_kill_at_any_step_leaves_the_older_or_the_new_checkpoint() {
    let mut seen_new = false;
    for steps in 0.. {
        let dir = older();
        let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
        write(staging.place(), &NEW_NAMES, "new");
        STEPS.set(Some(steps));
        let result = staging.publish(Some(&manifest()));
        // The destructor of a killed process changes nothing, but the kernel releases
        // its lock.
        STEPS.set(Some(0));
        drop(staging);
        // The process is killed again while it recovers.
        STEPS.set(Some(steps % 3));
        let _ = recover(dir.path());
        STEPS.set(None);
        if dir.path().join(INVENTORY).exists() {
            let inventory = fs::read_to_string(dir.path().join(INVENTORY)).expect("read");
            match inventory.as_str() {
                "old" => assert!(!seen_new, "the older checkpoint is back after step {steps}"),
                // With an inventory the new checkpoint is complete.
                _ => {
                    let names = contents(dir.path());
                    assert!(NEW_NAMES.iter().all(|name| names[*name] == "new"));
                }
            }
        }
        recover(dir.path()).expect("recover");
        if dir.path().join(manifest::NAME).exists() {
            is_new(dir.path());
            seen_new = true;
        } else {
            holds(dir.path(), &OLD);
            assert!(!seen_new);
        }
        if result.is_ok() {
            assert!(seen_new && steps > 10);
            return;
        }
    }
}

#[test]
fn the_next_run_removes_the_leftover_of_a_killed_one() {
    let dir = older();
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "half");
    staging.done = true;
    drop(staging);
    assert!(dir.path().join(NEW).exists());
    let staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    holds(staging.place(), &[]);
    drop(staging);
    holds(dir.path(), &OLD);
}

#[test]
fn a_second_checkpoint_at_the_same_time_is_refused() {
    let dir = older();
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "new");
    let second = Staging::prepare(dir.path(), Durability::Disk);
    assert!(matches!(second, Err(Error::Busy { .. })));
    recover(dir.path()).expect("no change");
    assert_eq!(contents(staging.place()).len(), NEW_NAMES.len());
    staging.publish(Some(&manifest())).expect("publish");
    is_new(dir.path());
}

#[test]
fn logs_and_links_have_no_digest() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &["core-1.img", "descriptors.json"], "abc");
    write(staging.place(), &["dump.log", "pages-1.img.zst"], "x");
    std::os::unix::fs::symlink("../../first", staging.place().join(PARENT)).expect("symlink");
    let pages = Entry::whole("pages-1.img.zst", Kind::Pages, 1, blake3::hash(b"x"));
    let entries = staging.digest(vec![pages.clone()]).expect("digest");
    let abc = |name, kind| Entry::whole(name, kind, 3, blake3::hash(b"abc"));
    let expected = [
        abc("core-1.img", Kind::Image),
        abc("descriptors.json", Kind::Other),
        pages,
    ];
    assert_eq!(entries, expected);
    let parent = staging.parent(Path::new("../first")).expect("parent");
    assert_eq!(parent.as_deref(), Some("../first"));
    staging.publish(None).expect("publish");
    let link = fs::read_link(dir.path().join(PARENT)).expect("link");
    assert_eq!(link, Path::new("../first"));
}

#[test]
fn in_place_removes_the_older_checkpoint_first() {
    let dir = older();
    let mut staging = Staging::in_place(dir.path()).expect("staging");
    assert_eq!(staging.place(), dir.path());
    holds(dir.path(), &[("note", "old")]);
    write(dir.path(), &NEW_NAMES, "new");
    staging.publish(None).expect("publish");
    assert_eq!(contents(dir.path()).len(), 4);
}

#[test]
fn a_kept_checkpoint_survives_the_next_run() {
    let dir = older();
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "new");
    STEPS.set(Some(3));
    staging.publish(Some(&manifest())).expect_err("killed");
    STEPS.set(None);
    let kept = staging.keep();
    assert!(contents(&kept).len() >= NEW_NAMES.len());
    drop(Staging::prepare(dir.path(), Durability::Disk).expect("staging"));
    assert!(contents(&kept).len() >= NEW_NAMES.len());
}
