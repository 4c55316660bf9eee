//! Docker's containers, by runc's commands of `cedana`: dumped, exported, and restored by
//! runc.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cedana_integration::daemon::Daemon;
use cedana_integration::docker::{Container, Run, docker_ok};
use cedana_integration::folder::Folder;
use cedana_integration::{command, eventually, runc, unique};

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

/// The processes that read the output of a restored container, by their files.
fn readers(new: &str) -> Vec<String> {
    let log = runc::bundle_of(new).join("output.log");
    let log = log.to_string_lossy();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path())
        .filter(|process| {
            fs::read_link(process.join("fd/1")).is_ok_and(|file| {
                // A removed file's name ends with " (deleted)".
                file.to_string_lossy().starts_with(&*log)
            })
        })
        .map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default())
        .collect()
}

/// A container that writes comes back, and its output is in the bundle.
#[track_caller]
fn output_is_kept(flags: &[&str]) {
    let daemon = Daemon::start("docker-runc");
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let container = Run::new("output")
        .flags(flags)
        .command(&["sh", "-c", script])
        .start();
    eventually("it writes", || match container.logs() {
        lines if lines.contains("line 2") => Ok(()),
        lines => Err(lines),
    });
    let folder = Folder::new("output");
    let id = container.inspect("{{.Id}}");
    daemon.ok(&["dump", "runc", &id, "-d", &folder.text()]);
    container.exited();
    let tar = exported(&container, &folder);
    let new = unique("new");
    daemon.ok(&[
        "restore",
        "--bundle",
        &tar,
        "-i",
        &new,
        "-d",
        &folder.text(),
    ]);
    let log = runc::bundle_of(&new).join("output.log");
    eventually("its output is in the bundle", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        match text.matches("line").count() {
            0..4 => Err(text),
            _ => Ok(()),
        }
    });
    let text = fs::read_to_string(&log).expect("the output");
    assert!(
        !text.contains("line 1\n") && !text.contains("line 1\r"),
        "{text}"
    );
    assert_eq!(readers(&new).len(), 1, "{:?}", readers(&new));
    daemon.ok(&["dump", "runc", &new, "-d", &folder.text()]);
    runc::delete(&new);
    runc::no_bundle(&new);
    eventually("no process reads it", || match readers(&new) {
        none if none.is_empty() => Ok(()),
        some => Err(some.join("; ")),
    });
    daemon.ok(&[
        "restore",
        "--bundle",
        &tar,
        "-i",
        &new,
        "-d",
        &folder.text(),
    ]);
    runc::pid(&new);
    runc::delete(&new);
    runc::no_bundle(&new);
}

#[test]
fn the_output_of_a_restored_container_is_in_its_bundle() {
    output_is_kept(&[]);
}

#[test]
fn a_restored_container_keeps_its_terminal() {
    output_is_kept(&["--tty"]);
}
