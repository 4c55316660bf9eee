//! Commands that are passed to the runtime, and versions.

use std::fs;

use crate::stage::{DUMP, Stage, first_line, stderr};

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

/// A settings file, a variable, and what the warning and the error say.
const MISTAKES: [(&str, (&str, &str), &str); 5] = [
    ("[checkpoint]\ntypo = 1\n", ("A", ""), "config.toml:2: "),
    ("log_keep = = 3\n", ("A", ""), "config.toml:1: "),
    ("runtime = \"bin/runc\"\n", ("A", ""), "config.toml:1: "),
    (
        "",
        ("CEDANA_RESTORE_SETLE", "1s"),
        "did you mean \"CEDANA_RESTORE_SETTLE\"?",
    ),
    ("", ("CEDANA_CONFIG", "/no/such/file"), "/no/such/file"),
];

#[test]
fn a_mistake_in_the_settings_stops_checkpoints_and_restores_only() {
    let stage = Stage::new("echo done");
    stage.bundle();
    stage.images();
    for (file, (name, value), mistake) in MISTAKES {
        fs::write(stage.path("config.toml"), file).expect("write");
        let run = |args: &[&str]| stage.command(args).env(name, value).output().expect("run");
        for verb in [
            "create", "start", "state", "exec", "kill", "delete", "features",
        ] {
            let output = run(&[verb, "c"]);
            assert!(output.status.success(), "{verb}: {}", stderr(&output));
            assert_eq!(output.stdout, b"done\n", "{verb}");
            let said = stderr(&output);
            assert_eq!(said.lines().count(), 1, "{verb}: {said}");
            assert!(said.contains("warning") && said.contains(mistake), "{said}");
        }
        assert!(run(&["--version"]).status.success());
        for args in [
            [
                "--root",
                "root",
                "checkpoint",
                "--image-path",
                "images",
                "c",
            ],
            ["--root", "root", "restore", "--bundle", "bundle", "c"],
        ] {
            let output = run(&args);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            assert!(stderr(&output).contains(mistake), "{}", stderr(&output));
        }
    }
}

/// The output of some verbs is parsed together with stderr, and that of others is the
/// container's.
#[test]
fn the_warning_of_a_mistake_goes_to_the_log_alone_if_there_is_one() {
    let stage = Stage::new("echo done");
    fs::write(stage.path("config.toml"), "typo = 1\n").expect("write");
    let output = stage.run(&["--log", "log.json", "--log-format", "json", "state", "c"]);
    assert!(output.status.success());
    assert_eq!(stderr(&output), "");
    let log = fs::read_to_string(stage.path("log.json")).expect("log");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("warning") && log.contains("config.toml:1"),
        "{log}"
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
