//! `checkpoint`: the stored files, the container's end, and failures.

use std::fs;
use std::path::Path;

use crate::stage::{DUMP, Stage, first_line, names, stderr};

/// A script for CRIU's post-dump, which runs if the checkpoint ends the container.
const POST_DUMP: &str = r#"
script=$(sed -n 's/^action-script //p' "$CRIU_CONFIG_FILE")
CRTOOLS_SCRIPT_ACTION=pre-dump "$script" || exit 9
touch "$STAGE/waiting"
CRTOOLS_SCRIPT_ACTION=post-dump "$script"; verdict=$?
ls -A "$STAGE/images" >"$STAGE/seen"; echo $verdict >"$STAGE/verdict"; exit $verdict
"#;

/// The file names of a checkpoint of [`DUMP`].
const WHOLE: [&str; 3] = ["cedana-manifest.json", "inventory.img", "pages-1.img.zst"];

fn is_empty_or_missing(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn criu_gets_its_configuration_and_runc_its_flags() {
    let stage = Stage::new(
        &(DUMP.to_owned()
            + r#"printf '%s ' "$@" >"$STAGE/args"; cat "$CRIU_CONFIG_FILE" >"$STAGE/criu.conf""#),
    );
    fs::write(stage.path("users.conf"), "tcp-close").expect("write");
    let output = stage
        .command(&["--root", "root", "checkpoint", "--leave-running", "c"])
        .env("CRIU_CONFIG_FILE", stage.path("users.conf"))
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(stage.path("args")).expect("args"),
        format!(
            "--root root checkpoint --tcp-established --file-locks --ext-unix-sk --link-remap --image-path={} --leave-running c ",
            stage.path("checkpoint/.cedana-new").display()
        )
    );
    assert_eq!(
        fs::read_to_string(stage.path("criu.conf")).expect("conf"),
        "ghost-limit 7340032\nlink-remap\nirmap-scan-path /usr/share/zoneinfo\ntimeout 1\ntcp-close\n"
    );
}

#[test]
fn a_checkpoint_is_stored_with_a_manifest() {
    let stage = Stage::new(DUMP);
    let bundle = stage.bundle();
    fs::write(bundle.join("config.json"), r#"{"hostname":"h"}"#).expect("write");
    stage.annotate("io.kubernetes.cri.image-name", "i:1");
    stage.annotate("bundle", &bundle.display().to_string());
    for _ in 0..2 {
        let output = stage.checkpoint_running(&[]).output().expect("run");
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(names(&stage.path("images")), WHOLE);
    }
    let text = fs::read(stage.path("images/cedana-manifest.json")).expect("manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&text).expect("json");
    assert_eq!(manifest["container"]["spec"]["hostname"], "h");
    assert_eq!(manifest["container"]["image"], "i:1");
    assert_eq!(manifest["versions"]["runtime"], "runc version 1.3.6");
    assert_eq!(manifest["options"]["leave_running"], true);
    assert_eq!(manifest["cost"]["raw_bytes"], 3_000_000);
    let files = manifest["files"].as_array().expect("files");
    assert_eq!(files.len(), 2);
    assert_eq!(files[1]["pages"]["raw_size"], 3_000_000);

    let output = stage
        .checkpoint_running(&[])
        .env("CEDANA_CHECKPOINT_COMPRESSION", "none")
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", stderr(&output));
    let plain = [
        "cedana-manifest.json",
        "inventory.img",
        "pages-1.img",
        "pages-1.img.table",
    ];
    assert_eq!(names(&stage.path("images")), plain);
}

#[test]
fn a_container_ends_only_after_its_checkpoint_is_published() {
    let stage = Stage::new(&(DUMP.to_owned() + POST_DUMP));
    let output = stage.checkpoint();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(stage.path("verdict")).expect("verdict"),
        "0\n"
    );
    assert_eq!(
        fs::read_to_string(stage.path("seen")).expect("seen"),
        WHOLE.join("\n") + "\n"
    );
}

#[test]
fn a_container_continues_if_its_checkpoint_cannot_be_stored() {
    // The file of the compressed memory exists already.
    let broken = DUMP.replace("yes memory", "touch \"$place/pages-1.img.zst\"; yes memory");
    let stage = Stage::new(&(broken + POST_DUMP));
    stage.images();
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    assert!(
        line.contains("pages-1.img.zst") && line.contains("exists"),
        "{line}"
    );
    assert_eq!(
        fs::read_to_string(stage.path("verdict")).expect("verdict"),
        "1\n"
    );
    assert_eq!(names(&stage.path("images")), ["inventory.img"]);
}

#[test]
fn a_runtime_that_exits_while_criu_waits_does_not_block() {
    let stage = Stage::new(&(DUMP.to_owned() + "(" + POST_DUMP + ") & exit 1"));
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    // CRIU's post-dump script may ask too late for an answer. It must exit in any case,
    // and no incomplete checkpoint may be left.
    assert!(stage.path("verdict").exists(), "{}", stderr(&output));
    let left = names(&stage.path("."));
    assert!(!left.contains(&"images".to_owned()) || names(&stage.path("images")) == WHOLE);
}

#[test]
fn the_next_checkpoint_removes_the_files_of_a_killed_one() {
    let stage =
        Stage::new(&(DUMP.to_owned() + "[ -e killed ] || { touch killed; kill -KILL $PPID; }"));
    stage.images();
    assert_eq!(stage.checkpoint().status.code(), None);
    assert_eq!(
        names(&stage.path("images")),
        [".cedana-new", "inventory.img"]
    );
    let output = stage.checkpoint();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&stage.path("images")), WHOLE);
}

#[test]
fn pre_dumps_are_left_to_the_runtime() {
    let stage = Stage::new(
        &(DUMP.to_owned() + r#"printf '%s ' "$@" >args; ln -s ../../first "$place/parent""#),
    );
    fs::create_dir(stage.path("first")).expect("mkdir");
    let args = [
        "--root",
        "root",
        "checkpoint",
        "--pre-dump",
        "--image-path=images",
        "--parent-path",
        "../first",
        "c",
    ];
    let output = stage.run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        names(&stage.path("images")),
        ["inventory.img", "pages-1.img", "parent"]
    );
    let link = fs::read_link(stage.path("images/parent")).expect("link");
    assert_eq!(link, Path::new("../first"));
    let args = fs::read_to_string(stage.path("args")).expect("args");
    assert!(
        args.contains("--parent-path=../../first --pre-dump c "),
        "{args}"
    );
}

#[test]
fn a_checkpoint_without_images_is_a_failure() {
    let stage = Stage::new("exit 0");
    let output = stage.checkpoint_running(&[]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        first_line(&output).contains("no inventory.img"),
        "{}",
        stderr(&output)
    );
    assert!(is_empty_or_missing(&stage.path("images")));
}

#[test]
fn a_failed_checkpoint_is_explained_and_leaves_no_images() {
    let stage = Stage::new(
        r#"[ "$1" = --version ] && exit
        mkdir -p images work; echo x >images/core-1.img
        echo '(00.1) 7: Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.' >work/dump.log
        echo 'criu failed: type NOTIFY errno 0' >&2; exit 1"#,
    );
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    assert!(
        line.contains("container c") && line.contains("established TCP"),
        "{line}"
    );
    assert!(is_empty_or_missing(&stage.path("images")));
    let kept: Vec<_> = fs::read_dir(stage.path("logs")).expect("logs").collect();
    assert_eq!(kept.len(), 1);
    let log = fs::read_to_string(stage.path("log.json")).expect("log");
    let entry: serde_json::Value =
        serde_json::from_str(log.lines().last().expect("a line")).expect("json");
    assert_eq!(entry["level"], "error");
    assert_eq!(
        format!("cedana-runc: {}", entry["msg"].as_str().expect("msg")),
        line
    );
}

#[test]
fn a_failure_before_criu_keeps_the_runtimes_error() {
    let stage = Stage::new("echo 'Container cannot be checkpointed in stopped state' >&2; exit 1");
    assert!(first_line(&stage.checkpoint()).contains("in stopped state"));
}

#[test]
fn signals_are_passed_to_the_runtime_and_its_orphans_are_awaited() {
    let stage = Stage::new(
        r#"[ "$1" = --version ] && exit
        (sleep 0.3; echo done >"$STAGE/orphan") &
        trap 'exit 1' TERM; kill -TERM $PPID; while :; do sleep 0.01; done"#,
    );
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    assert!(stage.path("orphan").exists());
}

#[test]
fn a_missing_or_old_criu_is_reported() {
    let stage = Stage::new("exit 0");
    stage.program("criu", "echo Version: 3.11");
    assert!(first_line(&stage.checkpoint()).contains("3.11"));
    fs::remove_file(stage.path("bin/criu")).expect("remove");
    let output = stage
        .command(&["--root", "root", "checkpoint", "c"])
        .env("PATH", stage.path("bin"))
        .output()
        .expect("run");
    assert!(first_line(&output).contains("CRIU is not installed"));
}

#[test]
fn an_annotation_cannot_ask_for_more_than_the_node_allows() {
    let stage = Stage::new(&(DUMP.to_owned() + r#"cat "$CRIU_CONFIG_FILE" >"$STAGE/criu.conf""#));
    let settings = fs::read_to_string(stage.path("config.toml")).expect("settings");
    let limit = "[checkpoint]\nghost_limit = \"5MiB\"\n";
    fs::write(stage.path("config.toml"), settings + limit).expect("write");
    let output = stage.checkpoint();
    assert!(output.status.success(), "{}", stderr(&output));
    let conf = fs::read_to_string(stage.path("criu.conf")).expect("conf");
    assert!(conf.contains("ghost-limit 5242880\n"), "{conf}");
    let warning =
        "annotation io.cedana.checkpoint.ghost_limit: \"7MiB\" is beyond the node's limit \"5MiB\"";
    let said = stderr(&output);
    assert_eq!(said.matches(warning).count(), 1, "{said}");
    let log = fs::read_to_string(stage.path("log.json")).expect("log");
    assert_eq!(log.lines().count(), 1, "{log}");
    let entry: serde_json::Value = serde_json::from_str(&log).expect("json");
    assert_eq!(entry["level"], "warning");
}

#[test]
fn a_configuration_of_criu_outside_etc_criu_is_refused() {
    let stage = Stage::new(&(DUMP.to_owned() + r#"touch "$STAGE/called""#));
    let file = stage.path("users.conf").display().to_string();
    fs::write(&file, "action-script /bin/sh\n").expect("write");
    stage.annotate("org.criu.config", &file);
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    for word in [
        "cannot checkpoint container c",
        "org.criu.config",
        &file,
        "criu.config_annotation",
    ] {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    assert!(!stage.path("called").exists());

    let output = stage
        .command(&["--root", "root", "checkpoint", "--leave-running", "c"])
        .env("CEDANA_CRIU_CONFIG_ANNOTATION", "any")
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stage.path("called").exists());
}
