//! What `cedana dump`, `restore` and their like refuse, with words, and nothing is lost.

use std::fs;
use std::path::PathBuf;

use cedana_integration::asked::Asked;
use cedana_integration::command;
use cedana_integration::daemon::{ALICE, BOB, Daemon};
use cedana_integration::folder::Folder;

#[track_caller]
fn refused(daemon: &Daemon, words: &[&str], expected: &str) {
    let said = daemon.cedana(words).refused();
    assert!(said.contains(expected), "{words:?}: {said}");
}

#[test]
fn what_cannot_be_dumped_is_refused_and_runs_on() {
    let daemon = Daemon::start("refused");
    let folder = Folder::new("dumps");
    let dir = folder.text();
    let mut job = Asked::start(&daemon, "job", &[]);
    let own = std::process::id().to_string();
    let daemons = daemon.pid().to_string();
    let missing = folder.file("missing").display().to_string();
    let file = folder.file("file");
    fs::write(&file, "").unwrap_or_else(|e| panic!("{e}"));
    let file = file.display().to_string();
    for (words, expected) in [
        (
            &["dump", "job", "nobody", "-d", &dir][..],
            "there is no job nobody",
        ),
        (&["dump", "job", "../job"], "not a valid job ID"),
        (&["dump", "job", "a/b"], "not a valid job ID"),
        (&["dump", "job", "job", "-d", &missing], "No such file"),
        (&["dump", "job", "job", "-d", &file], "Not a directory"),
        (
            &["dump", "job", "job", "-d", "/proc"],
            "/proc has only 0 MiB free",
        ),
        (&["dump", "process", "1", "-d", &dir], "it is init"),
        (
            &["dump", "process", "2147483647", "-d", &dir],
            "there is no such process",
        ),
        (
            &["dump", "process", &own],
            "there is no directory for the checkpoint",
        ),
        (
            &["dump", "process", &own, "-d", &dir],
            "cannot be checkpointed",
        ),
        (
            &["dump", "process", &daemons, "-d", &dir],
            "cannot be checkpointed",
        ),
        (&["dump", "job", "job", "--level", "99"], "level"),
        (
            &["dump", "job", "job", "--ghost-limit", "much"],
            "ghost_limit",
        ),
        (&["restore", "job", "job"], "job job is running"),
        (&["restore", "job", "nobody"], "there is no job nobody"),
        (&["restore", "process", "-p", &missing], "No such file"),
        (&["restore", "process", "-p", &dir], "not a checkpoint"),
        (&["restore", "process", "-p", &file], "checkpoint"),
        (&["freeze", "job", "nobody"], "there is no job nobody"),
        (&["unfreeze", "job", "job"], "not frozen"),
        (&["manage", "process", "1"], "it is init"),
        (&["checkpoints", "nobody"], "there is no job nobody"),
        (
            &["checkpoint", "delete", "4711"],
            "there is no checkpoint 4711",
        ),
        (
            &["checkpoint", "inspect", "4711"],
            "there is no checkpoint 4711",
        ),
    ] {
        refused(&daemon, words, expected);
    }
    let left = folder.names();
    assert_eq!(left, ["file"], "{left:?}");
    // A stopped job is not dumped, and says how to go on.
    daemon.ok(&["freeze", "job", "job"]);
    refused(&daemon, &["dump", "job", "job"], "is stopped");
    refused(&daemon, &["freeze", "job", "job"], "frozen");
    daemon.ok(&["unfreeze", "job", "job"]);
    job.answers();
}

#[test]
fn a_damaged_archive_is_refused_and_the_good_one_restored() {
    let daemon = Daemon::start("refused");
    let folder = Folder::new("dumps");
    let mut job = Asked::start(&daemon, "job", &[]);
    let said = daemon.ok(&["dump", "job", "job", "-d", &folder.text()]);
    let path = PathBuf::from(said.split_whitespace().last().unwrap_or_default());
    let good = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
    let damaged = folder.file("damaged.tar");
    let damaged_path = damaged.display().to_string();
    let write = |bytes: &[u8]| fs::write(&damaged, bytes).unwrap_or_else(|e| panic!("{e}"));
    for length in [0, 511, 512, good.len() / 2, good.len() - 20_000] {
        write(&good[..length]);
        let said = daemon.cedana(&["restore", "job", "job", "-p", &damaged_path]);
        let said = said.refused();
        assert!(said.contains("damaged.tar"), "{length}: {said}");
    }
    // One bit of memory, of an image, and of a digest in the manifest.
    let after = |text: &[u8], from: usize| {
        let found = good[from..]
            .windows(text.len())
            .position(|part| part == text);
        from + found.unwrap_or_else(|| panic!("no {}", text.escape_ascii())) + text.len()
    };
    // The name begins the header of 512 bytes.
    let image = after(b"inventory.img\0", 0) - 14 + 512 + 30;
    let manifest = after(b"cedana-manifest.json\0", 0);
    let digest = after(b"\"digest\": \"", manifest);
    for at in [700, image, digest] {
        let mut edited = good.clone();
        edited[at] ^= 4;
        write(&edited);
        let said = daemon.cedana(&["restore", "job", "job", "-p", &damaged_path]);
        let said = said.refused();
        assert!(said.contains("damaged.tar"), "{at}: {said}");
    }
    daemon.job_is("job", "checkpointed");
    daemon.ok(&["restore", "job", "job"]);
    job.answers();
    let number = daemon.ok(&["checkpoints", "job", "--json"]);
    assert!(number.contains("\"present\":true"), "{number}");
    let listed: serde_json::Value = serde_json::from_str(&number).unwrap_or_default();
    daemon.ok(&["checkpoint", "delete", &listed["number"].to_string()]);
    assert!(!path.exists());
    assert_eq!(daemon.ok(&["checkpoints", "job"]).lines().count(), 1);
}

#[test]
fn a_full_disk_leaves_the_job_running() {
    let daemon = Daemon::start("refused");
    let folder = Folder::new("full");
    let dir = folder.text();
    let mut job = Asked::start(&daemon, "job", &[]);
    command("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs", &dir]).ok();
    let said = daemon.cedana(&["dump", "job", "job", "-d", &dir]);
    let left = folder.names();
    command("umount", &[&dir]).ok();
    let said = said.refused();
    assert!(said.contains("choose another directory"), "{said}");
    assert!(left.is_empty(), "{left:?}");
    job.answers();
}

#[test]
fn another_user_sees_and_touches_no_job_that_is_not_theirs() {
    let daemon = Daemon::start("refused");
    let mut job = Asked::start(&daemon, "job", &[]);
    let said = daemon.ok(&["dump", "job", "job", "--leave-running"]);
    let path = said.split_whitespace().last().unwrap_or_default();
    let pid = daemon.pid_of("job").to_string();
    daemon
        .as_user(ALICE, &["exec", "-w", "/", "sleep 1000", "hers"])
        .ok();
    for (user, id) in [(ALICE, "job"), (BOB, "job"), (BOB, "hers")] {
        for words in [
            &["dump", "job", id][..],
            &["restore", "job", id],
            &["freeze", "job", id],
            &["unfreeze", "job", id],
            &["check", "job", id],
            &["checkpoints", id],
            &["checkpoint", "inspect", id],
            &["checkpoint", "delete", id],
        ] {
            let said = daemon.as_user(user, words).refused();
            assert!(said.contains(&format!("no job {id}")), "{words:?}: {said}");
        }
    }
    for words in [
        &["dump", "process", &pid, "-d", "/tmp"][..],
        &["freeze", "process", &pid],
        &["manage", "process", &pid],
        &["check", "process", &pid],
        &["dump", "runc", "x", "-d", "/tmp"],
        &["dump", "containerd", "x", "-i", "y"],
        &["restore", "runc", "-b", "/tmp", "-i", "x", "-p", "/tmp/x"],
        &["restore", "containerd", "x", "-i", "y"],
    ] {
        let said = daemon.as_user(BOB, words).refused();
        assert!(said.contains("only root"), "{words:?}: {said}");
    }
    // The archive is root's, and the daemon reads none for others.
    for words in [
        &["restore", "process", "-p", path][..],
        &["restore", "job", "mine", "-p", path],
        &["checkpoint", "delete", "1"],
    ] {
        daemon.as_user(BOB, words).refused();
    }
    // The daemon's own directory is no way around the caller's rights.
    daemon.as_user(ALICE, &["kill", "hers"]).ok();
    daemon.job_is("hers", "ended");
    let own = daemon.path("state/checkpoints/0");
    for path in [
        path,
        &format!("{own}/../../../../../../etc/shadow"),
        &format!("{own}/none"),
    ] {
        let said = daemon.as_user(ALICE, &["restore", "job", "hers", "-p", path]);
        let said = said.refused();
        assert!(said.contains("Permission denied"), "{path}: {said}");
    }
    assert!(
        daemon
            .as_user(BOB, &["checkpoint", "list"])
            .ok()
            .stdout
            .lines()
            .count()
            == 1
    );
    assert_eq!(
        daemon
            .as_user(BOB, &["ps", "-a"])
            .ok()
            .stdout
            .lines()
            .count(),
        1
    );
    job.answers();
}
