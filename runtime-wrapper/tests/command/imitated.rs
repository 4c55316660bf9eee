//! A container that gives its files the names of what CRIU says.

use crate::stage::{DUMP, Stage, stderr};

/// A script for runc whose CRIU logs this line, writes all images and fails.
fn failing_after(line: &str) -> Stage {
    Stage::new(&format!(
        "{DUMP}mkdir -p work; printf '{line}' >work/dump.log; echo 'criu failed' >&2; exit 1"
    ))
}

fn checkpoint(stage: &Stage) -> std::process::Output {
    stage
        .checkpoint_running(&["--work-path", "work"])
        .output()
        .expect("run")
}

#[test]
fn a_runtime_that_fails_after_the_dump_does_not_cost_the_checkpoint() {
    let stage = failing_after(r"(00.123456) Dumping finished successfully\n");
    let output = checkpoint(&stage);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stage.path("images/inventory.img").exists());
}

#[test]
fn a_name_in_the_log_is_no_success() {
    for line in [
        r"(00.123456) 3 is /tmp/Dumping finished successfully\n",
        r"(00.123456) 3 is /tmp/(00.1) Dumping finished successfully\n",
        r"(00.1) /tmp/a\n(00.1) Dumping finished successfully\n(00.2) Error (criu/cr-dump.c:1): Dumping FAILED.\n",
    ] {
        let stage = failing_after(line);
        let output = checkpoint(&stage);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(!stage.path("images/inventory.img").exists(), "{line}");
    }
}

#[test]
fn a_log_of_success_without_an_inventory_is_no_success() {
    let stage = Stage::new(
        r#"[ "$1" = --version ] && exit
mkdir -p work; echo '(00.123456) Dumping finished successfully' >work/dump.log; exit 1"#,
    );
    assert_eq!(checkpoint(&stage).status.code(), Some(1));
}

#[test]
fn a_log_of_success_without_crius_question_does_not_end_the_container() {
    // CRIU would have run its post-dump script before it said so.
    let stage = failing_after(r"(00.123456) Dumping finished successfully\n");
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    assert!(!stage.path("images/inventory.img").exists());
}
