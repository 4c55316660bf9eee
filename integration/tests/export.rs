//! Checkpoints in one file: exported, removed, imported and restored.

use std::fs;
use std::os::unix::fs::MetadataExt;

use cedana_integration::asked::Asked;
use cedana_integration::daemon::{ALICE, BOB, Daemon, has_ended};
use cedana_integration::folder::{Folder, flip, json};
use cedana_integration::runc::{self, RuncContainer};
use cedana_integration::{command, unique};

const WORKLOAD: [&str; 4] = ["--memory", "16", "--threads", "2"];

/// The path that a command has printed last.
fn last_word(said: &str) -> String {
    said.split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_job_comes_back_on_a_machine_that_has_only_the_file() {
    let daemon = Daemon::start("export");
    let folder = Folder::new("exports");
    let file = folder.file("moved.tar").display().to_string();
    let mut job = Asked::start(&daemon, "job", &[]);
    job.answers();
    daemon.ok(&["dump", "job", "job"]);
    let said = daemon.ok(&["checkpoint", "export", "job", &file]);
    assert_eq!(last_word(&said), file);
    let status = fs::metadata(&file).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((status.uid(), status.mode() & 0o7777), (0, 0o600));
    daemon.ok(&["job", "delete", "job"]);
    assert_eq!(daemon.ok(&["checkpoint", "list"]).lines().count(), 1);

    // Another machine: a daemon that knows nothing.
    let other = Daemon::start("import");
    let imported = json(&other.ok(&["checkpoint", "import", "--json", &file]));
    assert_eq!(imported["job"], "moved");
    assert_eq!(imported["type"], "process");
    let listed = other.ok(&["checkpoint", "list", "moved", "--json"]);
    let listed = json(&listed);
    assert_eq!(listed["path"], imported["path"]);
    assert_eq!(listed["present"], true);
    other.job_is("moved", "checkpointed");
    other.ok(&["restore", "job", "moved"]);
    let mut moved = job.copy_on(&other, "moved");
    moved.answers();
    // It is a job like any other.
    let pid = other.pid_of("moved");
    other.ok(&["dump", "job", "moved"]);
    has_ended(pid);
    other.ok(&["restore", "job", "moved"]);
    moved.answers();

    let taken = other.cedana(&["checkpoint", "import", &file]).refused();
    assert!(taken.contains("--name"), "{taken}");
    other.ok(&["checkpoint", "import", &file, "--name", "second"]);
    other.ok(&["job", "delete", "--force", "moved"]);
    other.ok(&["job", "delete", "second"]);
    let own = Folder(other.path("state/checkpoints/0").into());
    assert_eq!(own.names(), Vec::<String>::new());
}

#[test]
fn users_export_and_import_what_they_can_read() {
    let daemon = Daemon::start("export");
    let folder = Folder::new("exports");
    command("chmod", &["0777", &folder.text()]).ok();
    let path = |name: &str| folder.file(name).display().to_string();
    daemon.ok(&["exec", "-w", "/", "sleep 1000", "job"]);
    daemon.ok(&["dump", "job", "job"]);
    let [given, copy] = ["given.tar", "copy.tar"].map(path);
    daemon.ok(&["checkpoint", "export", "job", &given]);
    let owner = format!("{}:{}", ALICE.uid, ALICE.uid);
    command("chown", &[&owner, &given]).ok();

    let import = ["checkpoint", "import", &given, "--name", "mine"];
    let refused = daemon.as_user(BOB, &import).refused();
    assert!(refused.contains("Permission denied"), "{refused}");
    daemon.as_user(ALICE, &import).ok();
    let job = daemon.job_is("mine", "checkpointed");
    assert_eq!(job["uid"], ALICE.uid);
    let listed = daemon
        .as_user(ALICE, &["checkpoint", "list", "--json"])
        .ok();
    let number = json(&listed.stdout)["number"].to_string();
    // Users restore only what this node has signed.
    let refused = daemon.as_user(ALICE, &["restore", "job", "mine"]).refused();
    assert!(refused.contains("cannot be restored"), "{refused}");

    let export = ["checkpoint", "export", &number, &copy];
    let refused = daemon.as_user(BOB, &export).refused();
    assert!(refused.contains("there is no checkpoint"), "{refused}");
    // The daemon's own directory is root's, and so is the memory in this checkpoint.
    let refused = daemon.as_user(ALICE, &export).refused();
    assert!(refused.contains("export it as root"), "{refused}");
    assert_eq!(folder.names(), ["given.tar"]);
    let by_path = ["checkpoint", "export", &given, &copy];
    let refused = daemon.as_user(BOB, &by_path).refused();
    assert!(refused.contains("Permission denied"), "{refused}");
    daemon.as_user(ALICE, &by_path).ok();
    let status = fs::metadata(&copy).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((status.uid(), status.mode() & 0o7777), (ALICE.uid, 0o600));
    // A directory that is not the user's.
    let there = ["checkpoint", "export", &given, "/etc/job.tar"];
    let refused = daemon.as_user(ALICE, &there).refused();
    assert!(refused.contains("cannot write to /etc"), "{refused}");
}

#[test]
fn what_fails_leaves_nothing() {
    let daemon = Daemon::start("export");
    let folder = Folder::new("exports");
    let path = |name: &str| folder.file(name).display().to_string();
    daemon.ok(&["exec", "job", "--", "sleep", "1000"]);
    let said = daemon.ok(&["dump", "job", "job", "-d", &folder.text()]);
    let archive = last_word(&said);
    let whole = path("whole.tar");
    daemon.ok(&["checkpoint", "export", &archive, &whole]);
    let before = folder.names();
    let exists = daemon.cedana(&["checkpoint", "export", "job", &whole]);
    let exists = exists.refused();
    assert!(exists.contains("whole.tar exists"), "{exists}");
    let podman = [
        "checkpoint",
        "export",
        "job",
        &path("p.tar"),
        "--format",
        "podman",
    ];
    let podman = daemon.cedana(&podman).refused();
    assert!(podman.contains("of a process"), "{podman}");
    let flags = [
        "checkpoint",
        "export",
        "job",
        &path("p.tar"),
        "--image",
        "x",
    ];
    let flags = daemon.cedana(&flags).refused();
    assert!(flags.contains("--format podman"), "{flags}");
    let none = daemon.cedana(&["checkpoint", "export", &folder.text(), &path("n.tar")]);
    let none = none.refused();
    assert!(none.contains("inventory.img"), "{none}");

    flip(whole.as_ref());
    for words in [
        &["checkpoint", "import", &whole, "--name", "new"][..],
        &["checkpoint", "export", &whole, &path("copy.tar")],
    ] {
        let damaged = daemon.cedana(words).refused();
        assert!(damaged.contains("whole.tar"), "{damaged}");
    }
    let text = path("text.tar");
    fs::write(&text, "no archive").unwrap_or_else(|e| panic!("{e}"));
    let text = daemon.cedana(&["checkpoint", "import", &text, "--name", "new"]);
    let text = text.refused();
    assert!(text.contains("not a tar"), "{text}");
    fs::remove_file(path("text.tar")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(folder.names(), before);
    let unknown = daemon.cedana(&["job", "inspect", "new"]).refused();
    assert!(unknown.contains("there is no job new"), "{unknown}");
    let own = fs::read_dir(daemon.path("state/checkpoints/0"));
    assert_eq!(own.map_or(0, Iterator::count), 0);
}

#[test]
fn a_stock_runtimes_directory_becomes_one_file() {
    let daemon = Daemon::start("export");
    let container = RuncContainer::start("stock", &WORKLOAD);
    let before = container.report();
    let folder = Folder::new("stock");
    let images = folder.file("images").display().to_string();
    let dump = ["checkpoint", "--image-path", &images, container.id()];
    command("runc", &dump).ok();
    runc::delete(container.id());
    let file = folder.file("web.tar").display().to_string();
    daemon.ok(&["checkpoint", "export", &images, &file]);
    let imported = json(&daemon.ok(&["checkpoint", "import", "--json", &file]));
    assert_eq!(
        (&imported["job"], &imported["type"]),
        (&"web".into(), &"runc".into())
    );
    let path = imported["path"].as_str().unwrap_or_default();
    let stored = imported["bytes"].as_u64().unwrap_or(0);
    assert!(
        stored < imported["raw_bytes"].as_u64().unwrap_or(0),
        "{imported}"
    );
    let how = daemon.cedana(&["restore", "job", "web"]).refused();
    assert!(how.contains("cedana restore runc"), "{how}");
    // By the file and by the copy.
    for path in [&file, path] {
        let new = unique("stock");
        let bundle = container.bundle();
        daemon.ok(&["restore", "runc", "-b", &bundle, "-i", &new, "-p", path]);
        container.report_of(&new).continues(&before);
        runc::delete(&new);
    }
    daemon.ok(&["job", "delete", "web"]);
    assert!(fs::metadata(path).is_err());
}

#[test]
fn memory_in_the_store_is_in_the_file() {
    let daemon = Daemon::start("export");
    let container = RuncContainer::start("stored", &WORKLOAD);
    let before = container.report();
    let folder = Folder::new("stored");
    let images = folder.file("images").display().to_string();
    let dump = format!(
        "CEDANA_CHECKPOINT_STORE=reference cedana-runc checkpoint --image-path {images} {}",
        container.id()
    );
    command("sh", &["-c", &dump]).ok();
    runc::delete(container.id());
    let checkpoint = Folder(folder.file("images"));
    let id = checkpoint.manifest()["store"]["id"].clone();
    let id = id.as_str().unwrap_or_default().to_owned();
    let listed = daemon.ok(&["checkpoint", "list"]);
    assert!(listed.contains(&id[..12]), "{listed}");
    let files = ["by-id", "by-path"].map(|name| folder.file(name).display().to_string());
    daemon.ok(&["checkpoint", "export", &id, &files[0]]);
    daemon.ok(&["checkpoint", "export", &images, &files[1]]);
    // Nothing but the files is left.
    drop(checkpoint);
    for file in &files {
        let new = unique("stored");
        let bundle = container.bundle();
        let said = command("cedana-runc", &["inspect", file]).ok();
        assert!(!said.stdout.contains(&id), "{said}");
        daemon.ok(&["restore", "runc", "-b", &bundle, "-i", &new, "-p", file]);
        container.report_of(&new).continues(&before);
        runc::delete(&new);
    }
}
