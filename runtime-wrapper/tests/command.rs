//! The program as its callers see it, with a runtime and a CRIU made of shell
//! scripts: what reaches them, and what comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory with a fake runc and criu in `bin`, a state root, and a log.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new(runc: &str) -> Self {
        let stage = Self {
            dir: tempfile::tempdir().expect("tempdir"),
        };
        fs::create_dir(stage.path("bin")).expect("mkdir");
        stage.program("runc", runc);
        stage.program("criu", "echo Version: 4.2.1");
        fs::create_dir_all(stage.path("root/c")).expect("mkdir");
        fs::write(
            stage.path("root/c/state.json"),
            r#"{"init_process_pid":1,"config":{"namespaces":[],"labels":["io.cedana.checkpoint.ghost_limit=7MiB"]}}"#,
        )
        .expect("write");
        fs::write(
            stage.path("config.toml"),
            format!("log_dir = {:?}\nlog_keep = 2\n", stage.path("logs")),
        )
        .expect("write");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cedana-runc"));
        command
            .args(args)
            .env_clear()
            .env(
                "PATH",
                format!("{}:/bin:/usr/bin", self.path("bin").display()),
            )
            .env("CEDANA_CONFIG", self.path("config.toml"))
            .env("STAGE", self.dir.path())
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run")
    }

    fn checkpoint(&self) -> Output {
        self.run(&[
            "--root",
            "root",
            "--log",
            "log.json",
            "--log-format",
            "json",
            "checkpoint",
            "--image-path",
            "images",
            "--work-path",
            "work",
            "c",
        ])
    }

    fn bundle(&self) -> PathBuf {
        let bundle = self.path("bundle");
        fs::create_dir(&bundle).expect("mkdir");
        fs::write(bundle.join("config.json"), "{}").expect("write");
        bundle
    }

    fn images(&self) {
        fs::create_dir(self.path("images")).expect("mkdir");
        let inventory = [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 1];
        fs::write(self.path("images/inventory.img"), inventory).expect("write");
    }

    fn restore(&self) -> Output {
        self.run(&[
            "--root",
            "root",
            "restore",
            "-d",
            "-b",
            "bundle",
            "--image-path",
            "images",
            "c",
        ])
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn first_line(output: &Output) -> String {
    stderr(output).lines().next().unwrap_or_default().to_owned()
}

fn is_empty_or_missing(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn other_verbs_pass_unchanged() {
    let stage = Stage::new(r#"printf '%s\n' "$@"; echo err >&2; exit 42"#);
    let args = ["--root", "/r", "exec", "-t", "c", "a b", "--", "checkpoint"];
    let output = stage.run(&args);
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        args.join("\n") + "\n"
    );
    assert_eq!(stderr(&output), "err\n");
}

#[test]
fn a_mistake_in_other_settings_does_not_keep_a_container_from_being_killed() {
    let stage = Stage::new("echo killed");
    fs::write(stage.path("config.toml"), "[checkpoint]\ntypo = 1\n").expect("write");
    assert!(stage.run(&["kill", "c"]).status.success());
    let output = stage.checkpoint();
    assert!(
        first_line(&output).contains("config.toml:2"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn versions() {
    let stage = Stage::new("echo runc version 9.9.9");
    let output = stage.run(&["--version"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "runc version 9.9.9\n"
    );
    let output = stage.run(&["--cedana-version"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("cedana-runc "));
}

#[test]
fn wrapping_itself_is_refused() {
    let stage = Stage::new("");
    let output = stage
        .command(&["state", "c"])
        .env("CEDANA_RUNTIME", env!("CARGO_BIN_EXE_cedana-runc"))
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(first_line(&output).contains("cedana-runc itself"));
}

#[test]
fn checkpoint_gives_criu_its_configuration_and_runc_its_flags() {
    let stage = Stage::new(
        r#"[ "$1" = --version ] && { echo "runc version 1.3.6"; exit; }
        printf '%s ' "$@" >"$STAGE/args"; cat "$CRIU_CONFIG_FILE" >"$STAGE/criu.conf""#,
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
        "--root root checkpoint --tcp-established --file-locks --ext-unix-sk --link-remap --leave-running c "
    );
    assert_eq!(
        fs::read_to_string(stage.path("criu.conf")).expect("conf"),
        "ghost-limit 7340032\nlink-remap\ntimeout 60\ntcp-close\n"
    );
}

#[test]
fn failed_checkpoint_is_explained_and_leaves_no_images() {
    let stage = Stage::new(
        r#"mkdir -p images work; echo x >images/core-1.img
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
fn failure_before_criu_keeps_the_runtimes_words() {
    let stage = Stage::new("echo 'Container cannot be checkpointed in stopped state' >&2; exit 1");
    assert!(first_line(&stage.checkpoint()).contains("in stopped state"));
}

#[test]
fn signal_reaches_the_runtime_and_its_orphans_are_waited_for() {
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
fn no_criu_and_an_old_one() {
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
fn restore_checks_bundle_and_images_first() {
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
fn restore_that_dies_at_once_is_no_success() {
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
fn restore_works_outside_the_checkpoint() {
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
