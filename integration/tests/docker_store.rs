//! Docker's checkpoints refer to the store, and let go of it.

use std::fs;
use std::path::Path;

use cedana_integration::docker::{Container, Run, docker_ok, no_restore_here};
use cedana_integration::folder::{Folder, size};
use cedana_integration::{Settings, command};

const WORKLOAD: [&str; 6] = ["--memory", "64", "--children", "2", "--threads", "4"];

fn checkpoint(container: &Container, name: &str) -> Folder {
    container.checkpoint(name).ok();
    Folder(container.checkpoint_path(name))
}

fn bytes(images: &Folder) -> u64 {
    let names = images.names();
    names.iter().map(|name| size(&images.file(name))).sum()
}

/// The bytes of the store's packs.
fn stored() -> u64 {
    let packs = fs::read_dir("/var/lib/cedana/store/packs");
    let packs = packs.into_iter().flatten().flatten();
    packs.map(|pack| size(&pack.path())).sum()
}

#[test]
fn checkpoints_of_docker_refer_to_the_store_and_let_go_of_it() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("stored")
        .leaves_running()
        .workload(&WORKLOAD)
        .start();
    let before = container.report();
    let first = checkpoint(&container, "first");
    assert_eq!(first.manifest()["format"], 3);
    assert!(bytes(&first) < 2 << 20, "{} bytes", bytes(&first));
    let one = stored();
    assert!(one > 32 << 20, "{one} bytes");
    is_listed_and_not_deleted(&first);
    let second = checkpoint(&container, "second");
    assert!(bytes(&second) < 2 << 20, "{} bytes", bytes(&second));
    assert!(stored() - one < one / 10, "{one} and {} bytes", stored());
    container.kill();
    container.restore_and_run("second");
    container.report().continues(&before);
    // What one of two refers to stays.
    let _settings = Settings::write("[store]\ngrace = \"0s\"\n");
    docker_ok(&["checkpoint", "rm", container.name(), "second"]);
    command("cedana", &["store", "gc"]).ok();
    container.kill();
    container.restore_and_run("first");
    container.report().continues(&before);
    command("cedana", &["store", "check"]).ok();
    container.kill();
    drop(container);
    command("cedana", &["store", "gc"]).ok();
    assert_eq!(stored(), 0);
    a_store_that_cannot_be_used_is_no_obstacle();
}

/// Without a daemon: the list ends with the error that those of jobs are missing.
fn is_listed_and_not_deleted(images: &Folder) {
    let manifest = images.manifest();
    let id = manifest["store"]["id"].as_str().unwrap_or_default();
    let cedana = |arguments: &[&str]| {
        let no_daemon = ["--daemon", "/run/no-daemon.sock", "checkpoint"];
        command("cedana", &[&no_daemon, arguments].concat())
    };
    let listed = cedana(&["list", "--json"]);
    assert_eq!(listed.code, 3, "{listed}");
    assert!(
        listed.stdout.contains(id) && listed.stdout.contains("docker"),
        "{listed}"
    );
    let shown = cedana(&["inspect", &id[..8]]).ok();
    assert!(shown.stdout.contains("workload"), "{shown}");
    let refused = cedana(&["delete", &id[..8]]).refused();
    assert!(refused.contains("docker checkpoint rm"), "{refused}");
}

/// The checkpoint then holds the memory itself.
fn a_store_that_cannot_be_used_is_no_obstacle() {
    let _settings = Settings::write("[store]\npath = \"/etc/hostname\"\n");
    let container = Run::new("without").workload(&WORKLOAD).start();
    let before = container.report();
    let images = checkpoint(&container, "cp");
    container.exited();
    assert_eq!(images.manifest()["format"], 1);
    assert!(bytes(&images) > 32 << 20, "{} bytes", bytes(&images));
    container.restore_and_run("cp");
    container.report().continues(&before);
    container.kill();
    // Nor is one that becomes full.
    let store = Path::new("/var/tmp/small-store");
    fs::create_dir_all(store).unwrap_or_else(|error| panic!("{error}"));
    let shown = store.display().to_string();
    let options = ["-t", "tmpfs", "-o", "size=16m,mode=0700", "store", &shown];
    command("mount", &options).ok();
    let _settings = Settings::write(&format!("[store]\npath = \"{shown}\"\n"));
    container.restore_and_run("cp");
    let images = checkpoint(&container, "full");
    container.exited();
    assert_eq!(images.manifest()["format"], 1);
    container.restore_and_run("full");
    container.report().continues(&before);
    drop(container);
    command("umount", &[&shown]).ok();
}
