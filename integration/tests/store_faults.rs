//! A store that is full, damaged or unusable. The settings and the store are changed for
//! all containers, so the stories follow one another.

use std::fs;
use std::path::{Path, PathBuf};

use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::folder::{Folder, flip, read};
use cedana_integration::lazy::Lazy;
use cedana_integration::{Container, Run, Settings, command};

const STORE: &str = "/var/lib/cedana/store";
const WORKLOAD: [&str; 6] = ["--memory", "64", "--children", "2", "--threads", "4"];

/// All packs of the store.
fn packs() -> Vec<PathBuf> {
    let listed = fs::read_dir(Path::new(STORE).join("packs"));
    let listed = listed.unwrap_or_else(|error| panic!("{STORE}: {error}"));
    listed.flatten().map(|entry| entry.path()).collect()
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Settings with these in the section `[store]`.
fn referring(store: &str) -> Settings {
    Settings::write(&format!(
        "[checkpoint]\nstore = \"reference\"\n[store]\n{store}\n"
    ))
}

/// Asserts that a checkpoint of a running container fails with all of `words`, that the
/// container runs on, and that nothing is left of the checkpoint.
fn is_refused(container: &Container, words: &[&str]) {
    let before = container.report();
    let images = Folder::new("refused");
    let refused = container
        .task()
        .checkpoint(&images.0, None)
        .expect_err("a refusal");
    let refused = refused.to_string();
    for word in words {
        assert!(refused.contains(word), "{word:?} is not in {refused}");
    }
    container.report().continues(&before);
    assert_eq!(images.names(), [""; 0]);
    let incoming = fs::read_dir(Path::new(STORE).join("incoming"));
    assert_eq!(incoming.map_or(0, Iterator::count), 0);
}

/// A small file system in memory at the store's place.
struct Small;

impl Small {
    fn mount(size: &str) -> Self {
        fs::create_dir_all(STORE).unwrap_or_else(|error| panic!("{STORE}: {error}"));
        let options = format!("size={size},mode=0700");
        command("mount", &["-t", "tmpfs", "-o", &options, "store", STORE]).ok();
        Self
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        command("umount", &["--lazy", STORE]);
    }
}

#[test]
fn faults_of_the_store_lose_nothing() {
    let settings = referring("");
    missing_memory_is_found_before_anything_is_restored();
    damaged_memory_kills_the_container_before_it_reads_the_damage();
    a_store_that_cannot_be_written_to_is_read();
    a_catalogue_that_is_lost_keeps_no_restore_from_its_memory();
    drop(settings);
    let container = Run::new("faults").workload(&WORKLOAD).detach();
    a_quota_is_kept_and_the_container_runs_on(&container);
    a_full_disk_is_an_error_and_the_container_runs_on(&container);
    an_unusable_store_is_named(&container);
}

fn missing_memory_is_found_before_anything_is_restored() {
    let checkpointed = Checkpointed::of("missing", &[], &WORKLOAD);
    let there = packs();
    assert!(!there.is_empty());
    let away = |pack: &Path| pack.with_extension("away");
    for pack in &there {
        rename(pack, &away(pack));
    }
    let words = ["is not in the store /var/lib/cedana/store"];
    checkpointed.is_refused(&checkpointed.images, &words);
    let elsewhere = Path::new(STORE).with_extension("away");
    rename(Path::new(STORE), &elsewhere);
    checkpointed.is_refused(&checkpointed.images, &[STORE]);
    rename(&elsewhere, Path::new(STORE));
    for pack in &there {
        rename(&away(pack), pack);
    }
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
}

fn damaged_memory_kills_the_container_before_it_reads_the_damage() {
    let lazy = Lazy::new("store-damage", &WORKLOAD);
    let there = packs();
    there.iter().for_each(|pack| flip(pack));
    lazy.gate.open();
    lazy.was_killed(&["of the store is damaged"]);
    there.iter().for_each(|pack| flip(pack));
    lazy.restores_completely();
}

fn a_store_that_cannot_be_written_to_is_read() {
    let checkpointed = Checkpointed::of("read-only", &[], &WORKLOAD);
    let container = Run::new("read-only").workload(&WORKLOAD).detach();
    command("mount", &["--bind", STORE, STORE]).ok();
    command("mount", &["-o", "remount,bind,ro", STORE]).ok();
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
    is_refused(
        &container,
        &["the store cannot write to", "Read-only file system"],
    );
    command("umount", &["--lazy", STORE]).ok();
}

fn a_catalogue_that_is_lost_keeps_no_restore_from_its_memory() {
    let checkpointed = Checkpointed::of("lost", &[], &WORKLOAD);
    let catalogue = Path::new(STORE).join("catalogue.db");
    fs::write(&catalogue, "this is no database").unwrap_or_else(|error| panic!("{error}"));
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
    // A checkpoint says what to do.
    let container = Run::new("damaged").workload(&WORKLOAD).detach();
    is_refused(
        &container,
        &["catalogue.db is damaged", "cedana store check --repair"],
    );
    assert_eq!(read(&catalogue), "this is no database");
    fs::remove_file(&catalogue).unwrap_or_else(|error| panic!("{error}"));
}

fn a_quota_is_kept_and_the_container_runs_on(container: &Container) {
    let store = Small::mount("512m");
    let _settings = referring("quota = \"16MiB\"");
    is_refused(container, &["store.quota", "cedana store gc"]);
    drop(store);
}

fn a_full_disk_is_an_error_and_the_container_runs_on(container: &Container) {
    let store = Small::mount("16m");
    {
        let _settings = referring("");
        is_refused(container, &["No space left on device", "make room"]);
    }
    drop(store);
}

fn an_unusable_store_is_named(container: &Container) {
    let _settings = referring("path = \"/etc/hostname\"");
    is_refused(container, &["/etc/hostname", "checkpoint.store"]);
}
