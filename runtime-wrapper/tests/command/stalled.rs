//! A runtime or CRIU that never ends.

use std::fs;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use crate::stage::{DUMP, Stage, first_line};

/// A script for runc that starts a CRIU that hangs, and writes its PID.
const HANG: &str =
    r#"sleep 1000 & echo $! >"$STAGE/criu.new"; mv "$STAGE/criu.new" "$STAGE/criu"; wait"#;

fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Waits until the CRIU of [`HANG`] has ended.
fn criu_ends(stage: &Stage) {
    let pid = fs::read_to_string(stage.path("criu")).expect("CRIU's PID");
    let begun = Instant::now();
    while !has_ended(&pid) {
        assert!(begun.elapsed() < Duration::from_secs(30), "CRIU runs on");
    }
}

fn restore(stage: &Stage, timeout: &str) -> Output {
    stage
        .restore_command(&["--work-path", "work"])
        .env("CEDANA_RESTORE_TIMEOUT", timeout)
        .env("CEDANA_RESTORE_CHECK", "off")
        .output()
        .expect("run")
}

#[test]
fn a_restore_without_progress_is_killed_and_cleaned_up() {
    let stage = Stage::new(&format!(
        r#"[ "$1" = --version ] && exit
case "$*" in *delete*) touch "$STAGE/deleted"; exit;; esac
{HANG}"#
    ));
    stage.bundle();
    stage.images();
    let output = restore(&stage, "300ms");
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    for word in [
        "cannot restore container c",
        "no progress for 300ms",
        "restore.timeout",
    ] {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    criu_ends(&stage);
    assert!(stage.path("deleted").exists());
}

#[test]
fn a_slow_restore_whose_log_grows_is_not_killed() {
    let stage = Stage::new(
        r#"[ "$1" = --version ] && exit
mkdir -p work
for i in 1 2 3 4 5 6 7 8; do echo "(00.1) $i" >>work/restore.log; sleep 0.1; done
echo 'it ends by itself' >&2; exit 1"#,
    );
    stage.bundle();
    stage.images();
    let output = restore(&stage, "400ms");
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(
        line.contains("it ends by itself") && !line.contains("no progress"),
        "{line}"
    );
}

/// A process that stands for the container's init.
fn init(stage: &Stage) -> Child {
    let child = Command::new("sleep").arg("1000").spawn().expect("spawn");
    let record = stage.path("root/c/state.json");
    let text = fs::read_to_string(&record).expect("read");
    let pid = format!(r#""init_process_pid":{}"#, child.id());
    fs::write(&record, text.replace(r#""init_process_pid":1"#, &pid)).expect("write");
    fs::write(stage.path("init"), child.id().to_string()).expect("write");
    child
}

#[test]
fn a_dump_that_hangs_on_a_killed_init_is_ended() {
    let stage = Stage::new(&format!(
        r#"{DUMP}mkdir -p work; echo '(00.1) Dumping' >work/dump.log
kill -9 "$(cat "$STAGE/init")"
{HANG}"#
    ));
    let mut init = init(&stage);
    let begun = Instant::now();
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    assert!(
        line.contains("a process of the container ended while CRIU was working on it"),
        "{line}"
    );
    assert!(begun.elapsed() >= Duration::from_secs(5));
    criu_ends(&stage);
    assert!(!stage.path("images/inventory.img").exists());
    init.wait().expect("wait");
}
