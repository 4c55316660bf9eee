//! Docker's checkpoints share memory in the store, which loses it when nothing needs it.

use std::process::Command;

use cedana_integration::docker::{Container, Run, docker_ok, no_restore_here};
use cedana_integration::eventually;
use serde_json::Value;

/// Runs `cedana store`, without a daemon, and parses its JSON. Nothing is kept after it is
/// gone, so that no story waits for the grace time.
#[track_caller]
fn store(arguments: &[&str]) -> Value {
    let output = Command::new("cedana")
        .arg("store")
        .args(arguments)
        .arg("--json")
        .env("CEDANA_STORE_GRACE", "0s")
        .output()
        .expect("cedana runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}{errors}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Collects until so many checkpoints of a container have been removed: a collection that
/// meets a checkpoint of another story leaves the rest to the next.
#[track_caller]
fn removes(container: &str, wanted: usize) {
    let mut removed = 0;
    eventually("its checkpoints are collected", || {
        let report = store(&["gc"]);
        let names = report["removed"].as_array().into_iter().flatten();
        removed += names.filter(|one| one["name"] == container).count();
        match removed == wanted {
            true => Ok(()),
            false => Err(format!("{removed} of {wanted}, {report}")),
        }
    });
}

fn raw_bytes() -> u64 {
    store(&["stats"])["raw_bytes"].as_u64().expect("a number")
}

fn started() -> (Container, String) {
    let run = Run::new("stored").workload(&["--memory", "32"]);
    let container = run.start();
    let id = container.inspect("{{.Id}}");
    (container, id)
}

#[test]
fn memory_goes_with_the_last_checkpoint_that_needs_it() {
    let (container, id) = started();
    let before = container.report();
    container.checkpoint_running("one").ok();
    let one = raw_bytes();
    assert!(one >= 32 << 20, "{one}");
    container.checkpoint_running("two").ok();
    let report = store(&["gc"]);
    assert!(report["referenced"].as_u64() >= Some(2), "{report}");
    docker_ok(&["checkpoint", "rm", container.name(), "one"]);
    removes(&id, 1);
    assert_eq!(store(&["check"])["damaged"], false);
    if !no_restore_here() {
        container.kill();
        container.restore_and_run("two");
        container.report().continues(&before);
    }
    docker_ok(&["rm", "--force", container.name()]);
    removes(&id, 1);
    assert_eq!(store(&["check"])["damaged"], false);
}
