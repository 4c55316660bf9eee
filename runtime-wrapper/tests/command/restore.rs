//! `restore`: its checks, and the options of CRIU and runc.

use std::fs;

use crate::stage::{Stage, first_line, stderr};

#[test]
fn a_restore_checks_bundle_and_images_first() {
    let stage = Stage::new("touch \"$STAGE/started\"");
    assert!(first_line(&stage.restore()).contains("bundle"));
    stage.bundle();
    assert!(first_line(&stage.restore()).contains("images"));
    fs::create_dir(stage.path("images")).expect("mkdir");
    assert!(first_line(&stage.restore()).contains("not a checkpoint"));
    fs::write(stage.path("images/inventory.img"), [0x16, 0x31]).expect("write");
    assert!(first_line(&stage.restore()).contains("truncated"));
    assert!(!stage.path("started").exists());
}

#[test]
fn a_restore_whose_init_exits_at_once_is_a_failure() {
    let stage = Stage::new(
        r#"case "$*" in *delete*) touch "$STAGE/deleted";; *)
        sh -c 'exit 5' & wait $!; pid=$!
        echo "{\"init_process_pid\":$pid,\"config\":{\"namespaces\":[]}}" >root/c/state.json;; esac"#,
    );
    stage.bundle();
    stage.images();
    let output = stage.restore();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        first_line(&output).contains("ended at once"),
        "{}",
        stderr(&output)
    );
    assert!(stage.path("deleted").exists());
}

#[test]
fn a_restore_does_not_write_to_the_checkpoint() {
    let stage = Stage::new(
        r#"printf '%s ' "$@" >"$STAGE/args"
        echo "{\"init_process_pid\":$PPID,\"config\":{\"namespaces\":[]}}" >root/c/state.json"#,
    );
    stage.bundle();
    stage.images();
    let output = stage.restore();
    assert!(output.status.success(), "{}", stderr(&output));
    let args = fs::read_to_string(stage.path("args")).expect("args");
    assert!(args.starts_with(
        "--root root restore --file-locks --ext-unix-sk --tcp-established --work-path="
    ));
    assert_eq!(fs::read_dir(stage.path("images")).expect("dir").count(), 1);
}

#[test]
fn a_restore_closes_connections_by_criu_configuration() {
    let stage = Stage::new(
        r#"printf '%s ' "$@" >"$STAGE/args"
        cat "$CRIU_CONFIG_FILE" >"$STAGE/options"
        echo "{\"init_process_pid\":$PPID,\"config\":{\"namespaces\":[]}}" >root/c/state.json"#,
    );
    stage.bundle();
    stage.images();
    let output = stage.run(&[
        "--root",
        "root",
        "restore",
        "--tcp-close",
        "-d",
        "-b",
        "bundle",
        "--image-path",
        "images",
        "c",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let args = fs::read_to_string(stage.path("args")).expect("args");
    assert!(!args.contains("--tcp-"), "{args}");
    let options = fs::read_to_string(stage.path("options")).expect("options");
    assert!(options.contains("tcp-close"), "{options}");
}

#[test]
fn a_restore_refuses_incompatible_checkpoints() {
    let stage = Stage::new("echo started >>\"$STAGE/started\"");
    stage.bundle();
    stage.images();
    let manifest = stage.path("images/cedana-manifest.json");
    for (text, reason) in [
        (r#"{"format":99}"#, "has format 99"),
        ("{", "cedana-manifest.json is damaged"),
        (
            r#"{"format":1,"created":0,"files":[],"versions":{"cedana":"","criu":"","runtime":""},
                "container":{"id":"c"},"cost":{"dump_us":0,"total_us":0,"raw_bytes":0,"stored_bytes":0},
                "machine":{"architecture":"vax","page_size":512,"kernel":""}}"#,
            "was taken on vax",
        ),
    ] {
        fs::write(&manifest, text).expect("write");
        let output = stage.restore();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
    assert!(!stage.path("started").exists());
}

#[test]
fn a_restore_with_a_configuration_of_criu_outside_etc_criu_is_refused() {
    let stage = Stage::new(r#"[ "$1" = --version ] || touch "$STAGE/called""#);
    stage.images();
    let file = stage.path("users.conf").display().to_string();
    fs::write(&file, "").expect("write");
    let spec = serde_json::json!({"annotations": {"org.criu.config": file}});
    fs::write(stage.bundle().join("config.json"), spec.to_string()).expect("write");
    let line = first_line(&stage.restore());
    for word in ["cannot restore container c", "org.criu.config", &file] {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    assert!(!stage.path("called").exists());
}
