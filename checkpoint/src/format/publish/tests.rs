use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::recover::{INVENTORY, MOVING, NEW, READY, recover};
use super::steps::kill::STEPS;
use super::{Durability, Error, Staging};
use crate::format::manifest::{self, Entry, Kind, Manifest, PARENT};
use crate::opened::OpenedDir;

pub(super) fn write(dir: &Path, names: &[&str], text: &str) {
    for name in names {
        fs::write(dir.join(name), text).expect("write");
    }
}

pub(super) fn contents(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .expect("dir")
        .map(|entry| {
            let entry = entry.expect("entry");
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect()
}

pub(super) fn recovered(dir: &Path) -> Result<(), Error> {
    recover(&OpenedDir::open(dir).expect("open"))
}

pub(super) fn holds(dir: &Path, pairs: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = pairs
        .iter()
        .map(|&(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
    assert_eq!(contents(dir), expected);
}

pub(super) fn manifest() -> Manifest {
    Manifest::of(Vec::new())
}

/// An older checkpoint, in another format than the new one, and a foreign file.
pub(super) fn older() -> tempfile::TempDir {
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

pub(super) const OLD: [(&str, &str); 5] = [
    ("core-1.img", "old"),
    ("descriptors.json", "old"),
    ("inventory.img", "old"),
    ("note", "old"),
    ("pages-1.img", "old"),
];

pub(super) const NEW_NAMES: [&str; 3] = ["inventory.img", "core-1.img", "pages-1.img.zst"];

pub(super) fn is_new(dir: &Path) {
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
        let _ = recovered(dir.path());
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
        recovered(dir.path()).expect("recover");
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
    recovered(dir.path()).expect("no change");
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

#[test]
fn links_with_the_names_of_leftovers_lead_nowhere() {
    for name in [NEW, READY, MOVING] {
        let elsewhere = older();
        for target in [elsewhere.path(), Path::new("missing")] {
            let dir = older();
            std::os::unix::fs::symlink(target, dir.path().join(name)).expect("symlink");
            let error = recovered(dir.path()).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("link"), "{error}");
            let staging = Staging::prepare(dir.path(), Durability::Disk);
            staging.expect_err("a checkpoint to it");
            holds(elsewhere.path(), &OLD);
            fs::remove_file(dir.path().join(name)).expect("the link is there");
            holds(dir.path(), &OLD);
        }
        // A file is not removed either.
        let dir = older();
        write(dir.path(), &[name], "");
        recovered(dir.path()).expect_err(name);
    }
}

#[test]
fn links_within_leftovers_are_moved_or_removed_and_not_followed() {
    let elsewhere = older();
    let dir = older();
    let moving = dir.path().join(MOVING);
    fs::create_dir_all(moving.join("deep/er")).expect("mkdir");
    write(&moving, &["pages-1.img"], "new");
    std::os::unix::fs::symlink(elsewhere.path(), moving.join("x")).expect("symlink");
    fs::create_dir_all(dir.path().join(NEW).join("deep/er")).expect("mkdir");
    let away = dir.path().join(NEW).join("deep/er/x");
    std::os::unix::fs::symlink(elsewhere.path(), away).expect("symlink");
    recovered(dir.path()).expect("recover");
    assert!(!dir.path().join(NEW).exists() && !moving.exists());
    assert!(dir.path().join("x").is_symlink());
    holds(elsewhere.path(), &OLD);
}

#[test]
fn a_directory_that_others_can_write_to_gets_no_checkpoint() {
    let dir = older();
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
    mode(0o777).expect("chmod");
    let error = Staging::prepare(dir.path(), Durability::Disk).expect_err("refused");
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    let error = Staging::in_place(dir.path()).expect_err("refused");
    assert!(matches!(error, Error::Insecure(_)), "{error}");
    holds(dir.path(), &OLD);
    // One that would be made is not left behind.
    let made = dir.path().join("made");
    Staging::prepare(&made, Durability::Disk).expect_err("in such a directory");
    assert!(!made.exists());
    mode(0o755).expect("chmod");
    Staging::prepare(dir.path(), Durability::Disk).expect("its own now");
}

#[test]
fn an_earlier_checkpoint_is_beside_the_new_one() {
    Staging::check_parent(Path::new("../first")).expect("a sibling");
    for path in ["first", "../../first", "/first"] {
        let error = Staging::check_parent(Path::new(path)).expect_err(path);
        assert!(error.to_string().contains(path), "{error}");
    }
}
