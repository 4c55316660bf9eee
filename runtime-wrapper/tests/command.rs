//! Runs `cedana-runc` with shell scripts as runc and CRIU, and checks their arguments
//! and its output.

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

/// A script for runc that writes a checkpoint with 3 MB of memory to `--image-path`.
const DUMP: &str = r#"[ "$1" = --version ] && { echo "runc version 1.3.6"; exit; }
for arg; do case $arg in --image-path=*) place=${arg#*=};; esac; done
yes memory | head -c 3000000 >"$place/pages-1.img"
printf '\026\061\061\130\002\000\000\000\010\001' >"$place/inventory.img"
"#;

/// A script for CRIU's post-dump, which runs if the checkpoint ends the container.
const POST_DUMP: &str = r#"
script=$(sed -n 's/^action-script //p' "$CRIU_CONFIG_FILE")
CRTOOLS_SCRIPT_ACTION=pre-dump "$script" || exit 9
touch "$STAGE/waiting"
CRTOOLS_SCRIPT_ACTION=post-dump "$script"; verdict=$?
ls -A "$STAGE/images" >"$STAGE/seen"; echo $verdict >"$STAGE/verdict"; exit $verdict
"#;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("dir")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// The file names of a checkpoint of [`DUMP`].
const WHOLE: [&str; 3] = ["cedana-manifest.json", "inventory.img", "pages-1.img.zst"];

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
fn other_commands_are_passed_to_the_runtime_unchanged() {
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
fn kill_works_with_an_invalid_configuration() {
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
fn the_runtime_gets_a_search_path_if_there_is_none() {
    let stage = Stage::new(&format!(
        "tr '\\0' '\\n' </proc/$$/environ | grep ^PATH= >\"$STAGE/path\"\n{DUMP}"
    ));
    for path in [None, Some("")] {
        for verb in ["kill", "delete", "pause", "resume", "checkpoint"] {
            let mut command = stage.command(&["--root", "root", verb, "c"]);
            command.env("CEDANA_RUNTIME", stage.path("bin/runc"));
            match path {
                Some(path) => command.env("PATH", path),
                None => command.env_remove("PATH"),
            };
            // The result does not depend on whether this machine has CRIU.
            let output = command.output().expect("run");
            let said = stderr(&output);
            let path = fs::read_to_string(stage.path("path"));
            let _ = fs::remove_file(stage.path("path"));
            assert_eq!(
                path.unwrap_or_else(|error| panic!("{verb}: {error}: {said}")),
                format!(
                    "PATH={}\n",
                    cedana_contract::search_path::DEFAULT_SEARCH_PATH
                ),
                "{verb}"
            );
        }
    }
}

#[test]
fn own_version_and_the_runtimes_version_are_printed() {
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
fn cedana_runc_as_its_own_runtime_is_refused() {
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
    let state = fs::read_to_string(stage.path("root/c/state.json")).expect("state");
    let label = format!(
        r#""labels":["bundle={}","io.kubernetes.cri.image-name=i:1","#,
        bundle.display()
    );
    fs::write(
        stage.path("root/c/state.json"),
        state.replace(r#""labels":["#, &label),
    )
    .expect("write");
    let args = [
        "--root",
        "root",
        "checkpoint",
        "--leave-running",
        "--image-path",
        "images",
        "c",
    ];
    for _ in 0..2 {
        let output = stage.run(&args);
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
        .command(&args)
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
    let output = stage.run(&[
        "--root",
        "root",
        "checkpoint",
        "--leave-running",
        "--image-path",
        "images",
        "c",
    ]);
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
fn a_checkpoint_is_inspected_without_a_runtime() {
    let stage = Stage::new("exit 1");
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../checkpoint/src/inspect/data"
    );
    let text = stage.run(&["inspect", data]);
    assert!(text.status.success(), "{text:?}");
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    for shown in ["Processes (5)", "tcp6", "[::]:8081", "memfd:scratchpad"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    let json = stage.run(&["inspect", "--json", data]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["processes"][0]["comm"], "python3");
    let error = stage.run(&["inspect", "images"]);
    assert_eq!(error.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&error.stderr).contains("images"));
}
