//! Containers with many TCP connections, whose images are one file of a checkpoint.

use std::path::Path;

use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::docker::{Network, no_restore_here};
use cedana_integration::folder::{Folder, json};
use cedana_integration::nginx::{Client, nginx};
use cedana_integration::{command, nftables};

/// The archive of a checkpoint's connections.
const ARCHIVE: &str = "tcp-streams.tar";

/// The names of CRIU's images of connections in a checkpoint.
fn streams(images: &Folder) -> Vec<String> {
    let mut names = images.names();
    names.retain(|name| name.starts_with("tcp-stream-"));
    names
}

/// Asserts that a checkpoint has an archive, and no image of a connection beside it.
#[track_caller]
fn is_packed(images: &Folder) {
    let names = images.names();
    assert!(names.iter().any(|name| name == ARCHIVE), "{names:?}");
    assert_eq!(streams(images), Vec::<String>::new());
    // Docker's refer to the store, which is the newer format.
    let refers = names.iter().any(|name| name.ends_with(".chunks"));
    assert_eq!(images.manifest()["format"], if refers { 3 } else { 2 });
}

#[test]
fn hundreds_of_clients_stay_connected_and_are_one_file_of_the_checkpoint() {
    if no_restore_here() {
        return;
    }
    let network = Network::create("hundreds");
    let server = nginx("hundreds")
        .flags(&["--network", network.name(), "--ulimit", "nofile=4096:4096"])
        .start();
    let address = format!("{}:80", server.address());
    let mut clients = vec![Client::of(&address)];
    clients.extend((1..500).map(|_| Client::connect(&address)));
    let mut connections = Vec::new();
    for client in &mut clients {
        let answer = client.ask().expect("an answer");
        connections.push(answer.split(" request").next().map(str::to_owned));
    }
    // The second checkpoint is one of a restored container.
    for round in ["one", "two"] {
        server.checkpoint_and_exit(round);
        let stored = server.checkpoint_path(round);
        let images = Checkpoint(&stored).copy();
        is_packed(&images);
        let said = command("cedana-runc", &["inspect", "--json", &images.text()]).ok();
        let sockets = &json(&said.stdout)["sockets"];
        let queues = sockets.as_array().into_iter().flatten();
        let queues = queues.filter(|socket| socket["receive_queue"].is_number());
        assert_eq!(queues.count(), clients.len(), "{sockets}");
        server.restore_and_run(round);
        for (client, connection) in clients.iter_mut().zip(&connections) {
            let answer = client.ask().expect("an answer after the restore");
            let (same, _) = answer.split_once(" request").expect("nginx counts");
            assert_eq!(Some(same), connection.as_deref());
        }
    }
    let left = nftables(&format!("/proc/{}/ns/net", server.pid()));
    assert!(!left.contains("cedana-"), "the lock remains: {left}");
}

/// The directory of a checkpoint that Docker keeps.
struct Checkpoint<'a>(&'a Path);

impl Checkpoint<'_> {
    /// A copy, which is removed when it is dropped.
    #[track_caller]
    fn copy(&self) -> Folder {
        let copy = Folder::new("copy");
        let from = format!("{}/.", self.0.display());
        command("cp", &["-a", &from, &copy.text()]).ok();
        copy
    }
}

/// CRIU's options for a stock runtime, which restores connections only if it is told so.
const KEEP: &str = "tcp-established\n";

#[test]
fn an_unpacked_checkpoint_with_many_connections_is_restored_by_stock_runc() {
    let workload = ["--memory", "1", "--connections", "50"];
    let checkpointed = Checkpointed::of("unpacked", &[], &workload);
    is_packed(&checkpointed.images);
    checkpointed.criu_options(KEEP);
    // The connections are to 127.0.0.1.
    let netns = &checkpointed.id;
    command("ip", &["-netns", netns, "link", "set", "lo", "up"]).ok();

    let whole = Folder::new("whole");
    let to = whole.file("images").display().to_string();
    let from = checkpointed.images.text();
    command("cedana-runc", &["unpack", &from, "--to", &to]).ok();
    let unpacked = Folder(whole.file("images"));
    // Both ends of each connection.
    assert_eq!(streams(&unpacked).len(), 100);
    assert!(!unpacked.file(ARCHIVE).exists());
    checkpointed.restore("runc", &unpacked).ok();
    checkpointed.is_restored_intact();
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();

    // By hand, as docs/format.md says.
    let by_hand = checkpointed.images.copy("hand");
    let line = format!(
        "cd {} && tar -xf {ARCHIVE} && rm {ARCHIVE} cedana-manifest.json && zstd -dq --rm pages-*.zst",
        by_hand.text()
    );
    command("sh", &["-c", &line]).ok();
    for name in streams(&unpacked) {
        let same = [unpacked.file(&name), by_hand.file(&name)];
        let same = same.map(|path| path.display().to_string());
        command("cmp", &[&same[0], &same[1]]).ok();
    }
    // In place.
    command("cedana-runc", &["unpack", &from]).ok();
    assert_eq!(streams(&checkpointed.images).len(), 100);
    checkpointed.restore("runc", &checkpointed.images).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn a_damaged_archive_is_refused_and_named() {
    let workload = ["--memory", "1", "--connections", "50"];
    let checkpointed = Checkpointed::of("damaged", &[], &workload);
    let damaged = checkpointed.images.copy("damaged");
    cedana_integration::folder::flip(&damaged.file(ARCHIVE));
    checkpointed.is_refused(&damaged, &[ARCHIVE]);
    let missing = checkpointed.images.copy("missing");
    std::fs::remove_file(missing.file(ARCHIVE)).expect("it is there");
    checkpointed.is_refused(&missing, &[ARCHIVE]);
    let to = Folder::new("to");
    let whole = to.file("whole");
    let flags = [
        "unpack",
        &missing.text(),
        "--to",
        &whole.display().to_string(),
    ];
    let said = command("cedana-runc", &flags);
    assert!(said.code != 0 && said.stderr.contains(ARCHIVE), "{said}");
    assert!(!whole.exists(), "a part of it was written");
}
