//! Docker's containers, by runc's commands of `cedana`: dumped, exported, and restored by
//! runc.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cedana_integration::daemon::Daemon;
use cedana_integration::docker::{Container, Run, docker_ok};
use cedana_integration::folder::Folder;
use cedana_integration::{command, runc, unique};

/// A container with threads, above the size that is restored lazily.
const WORKLOAD: [&str; 6] = ["--memory", "16", "--threads", "2", "--file", "/f"];

fn started(label: &str, runtime: &str) -> Container {
    Run::new(label).runtime(runtime).workload(&WORKLOAD).start()
}

/// `docker export`'s archive of a container.
#[track_caller]
fn exported(container: &Container, folder: &Folder) -> String {
    let tar = folder.file("container_bundle.tar").display().to_string();
    docker_ok(&["export", "--output", &tar, container.name()]);
    tar
}

/// Dumps a container, and restores it from its files under another ID.
#[track_caller]
fn comes_back_by_runc(runtime: &str) {
    let daemon = Daemon::start("docker-runc");
    let container = started("moved", runtime);
    let before = container.report();
    let folder = Folder::new("moved");
    let id = container.inspect("{{.Id}}");
    let said = daemon.ok(&["dump", "runc", "-i", &id, "-d", &folder.text()]);
    container.exited();
    let archive = Path::new(said.split(' ').next_back().unwrap_or_default()).to_owned();
    let mode = fs::metadata(&archive).unwrap_or_else(|e| panic!("{said}: {e}"));
    assert_eq!(mode.mode() & 0o7777, 0o600);
    let name = format!("{id}_");
    assert!(
        folder.names().iter().all(|found| found.starts_with(&name)),
        "{:?}",
        folder.names()
    );
    assert_eq!(folder.names().len(), 1);
    let tar = exported(&container, &folder);

    let new = unique("new");
    let said = daemon.ok(&[
        "restore",
        "--bundle",
        &tar,
        "-i",
        &new,
        "-d",
        &folder.text(),
    ]);
    let pid = runc::pid(&new);
    assert_eq!(said, format!("container {new} runs as process {pid}"));
    runc::report(container.out(), pid).continues(&before);
    // The ID is taken, and the second bundle does not touch the first.
    let taken = daemon.cedana(&[
        "restore",
        "--bundle",
        &tar,
        "-i",
        &new,
        "-d",
        &folder.text(),
    ]);
    assert!(taken.refused().contains("already"));
    runc::report(container.out(), pid).continues(&before);

    command("cedana-runc", &["kill", &new, "KILL"]).ok();
    runc::delete(&new);
    runc::no_bundle(&new);
    assert_ne!(runc::state(&new).code, 0);
}

#[test]
fn a_container_of_the_stock_runtime_comes_back_by_runc() {
    comes_back_by_runc("runc");
}

#[test]
fn a_container_of_this_runtime_comes_back_by_runc() {
    comes_back_by_runc("cedana");
}

#[test]
fn a_container_that_is_to_run_on_does() {
    let daemon = Daemon::start("docker-runc");
    let container = started("on", "runc");
    let before = container.report();
    let folder = Folder::new("on");
    let id = container.inspect("{{.Id}}");
    let place = ["-d", &folder.text(), "--name", "mine"];
    daemon.ok(&[&["dump", "runc", &id, "--leave-running"], &place[..]].concat());
    assert!(
        folder.names()[0].starts_with("mine_"),
        "{:?}",
        folder.names()
    );
    container.running();
    container.report().continues(&before);
}

#[test]
fn a_name_is_no_id() {
    let daemon = Daemon::start("docker-runc");
    let container = started("name", "runc");
    let folder = Folder::new("name");
    let name = container.name();
    let said = daemon.cedana(&["dump", "runc", name, "-d", &folder.text()]);
    let said = said.refused();
    assert!(
        said.contains(&format!("docker inspect --format '{{{{.Id}}}}' {name}")),
        "{said}"
    );
    container.running();
    assert_eq!(folder.names(), [""; 0]);
}
