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
