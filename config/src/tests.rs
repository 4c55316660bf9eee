//! The layers and their error messages.

use std::path::Path;

use super::*;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../examples/config.toml");

fn from_file(text: &str) -> Result<Config, Error> {
    Config::from_sources(Some((Path::new("config.toml"), text)), [])
}

fn from_env(name: &str, value: &str) -> Result<Config, Error> {
    Config::from_sources(None, [(name.to_owned(), value.to_owned())])
}

fn message(result: Result<Config, Error>) -> String {
    match result {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn example_lists_every_setting_with_its_default() {
    assert_eq!(from_file(EXAMPLE).expect("example"), Config::default());
    for key in setting::keys() {
        let name = key.rsplit('.').next().expect("a key has a last part");
        assert!(
            EXAMPLE
                .lines()
                .any(|l| l.starts_with(&format!("{name} = "))),
            "{key} is missing in the example"
        );
    }
}

#[test]
fn later_layers_win() {
    let config = Config::from_sources(
        Some((
            Path::new("config.toml"),
            "runtime = \"crun\"\n[checkpoint]\ntimeout = \"1s\"\nfile_locks = false\n[restore]\nsettle = \"1s\"\n",
        )),
        [
            ("CEDANA_CHECKPOINT_TIMEOUT".into(), "2s".into()),
            ("CEDANA_RESTORE_SETTLE".into(), "2s".into()),
            ("HOME".into(), "/root".into()),
        ],
    )
    .and_then(|c| {
        c.with_annotations([("io.cedana.restore.settle", "3s"), ("org.criu.config", "")])
    })
    .expect("valid");
    assert_eq!(config.runtime, Path::new("crun"));
    assert!(!config.checkpoint.file_locks);
    assert_eq!(config.checkpoint.timeout.as_secs(), 2);
    assert_eq!(config.restore.settle.as_secs(), 3);
}

#[test]
fn unknown_key_names_file_line_and_suggestion() {
    assert_eq!(
        message(from_file("# x\n\n[checkpoint]\ntcp_establised = true\n")),
        "config.toml:4: unknown setting \"checkpoint.tcp_establised\"; did you mean \"checkpoint.tcp_established\"?"
    );
    assert_eq!(
        message(from_file("[dumps]\ntimeout = \"1s\"\n")),
        "config.toml:1: unknown setting \"dumps\""
    );
}

#[test]
fn first_error_in_the_file_is_reported() {
    let text = "zebra = 1\napple = 2\n";
    assert!(message(from_file(text)).starts_with("config.toml:1: "));
}

#[test]
fn syntax_error_names_the_line() {
    assert!(message(from_file("runtime = \"runc\"\nlog_dir = \n")).starts_with("config.toml:2: "));
}

#[test]
fn wrong_value_names_valid_ones() {
    assert_eq!(
        message(from_file("\n[restore]\nsettle = 20\n")),
        "config.toml:3: restore.settle: \"20\" is not a duration such as \"500ms\", \"60s\" or \"5m\""
    );
    assert!(message(from_file("runtime = [\"runc\"]\n")).contains("found array"));
    assert!(message(from_file("checkpoint = true\n")).contains("checkpoint"));
}

#[test]
fn unknown_variable_and_annotation_are_errors() {
    assert_eq!(
        message(from_env("CEDANA_RESTORE_SETLE", "1s")),
        "unknown environment variable \"CEDANA_RESTORE_SETLE\"; did you mean \"CEDANA_RESTORE_SETTLE\"?"
    );
    assert!(from_env("CEDANA_LOG_KEPT", "1").is_err());
    assert!(from_env("CEDANA_CONFIG", "/x").is_ok());
    assert!(from_env("CEDANA_URL", "https://example.org").is_ok());
    let annotated = Config::default().with_annotations([("io.cedana.checkpoint.ghostlimit", "1")]);
    assert!(message(annotated).contains("io.cedana.checkpoint.ghost_limit"));
}

#[test]
fn annotation_cannot_set_a_setting_of_the_node() {
    for name in [
        "io.cedana.runtime",
        "io.cedana.log_dir",
        "io.cedana.log_keep",
        "io.cedana.checkpoint.memory",
        "io.cedana.checkpoint.spare_memory",
        "io.cedana.restore.memory",
        "io.cedana.restore.check",
        "io.cedana.restore.accept",
        "io.cedana.restore.timeout",
    ] {
        let result = Config::default().with_annotations([(name, "/bin/sh")]);
        assert!(message(result).contains("belongs to the node"));
    }
}

proptest! {
    #[test]
    fn no_file_panics(text in ".{0,400}") {
        let _ = from_file(&text);
    }

    #[test]
    fn no_value_panics(
        key in prop::sample::select(setting::keys().collect::<Vec<_>>()),
        text in "\\PC{0,40}",
    ) {
        let variable = format!("CEDANA_{}", key.replace('.', "_").to_uppercase());
        let _ = from_env(&variable, &text);
        let annotation = format!("io.cedana.{key}");
        let _ = Config::default().with_annotations([(annotation.as_str(), text.as_str())]);
    }

    #[test]
    fn sizes_survive_the_layers(bytes in 0..u64::MAX) {
        let config = from_env("CEDANA_CHECKPOINT_GHOST_LIMIT", &bytes.to_string()).expect("a number");
        prop_assert_eq!(config.checkpoint.ghost_limit, bytes);
    }
}

#[test]
fn runtime_is_found_in_invalid_toml() {
    let line = |text| crate::file::top_level_line(text, "runtime");
    assert_eq!(
        line("log_keep = = 3\n runtime = \"crun\"\n[restore]\n"),
        Some(" runtime = \"crun\"")
    );
    assert_eq!(line("[checkpoint\nruntime = \"x\""), None);
    assert_eq!(line("runtimes = 1"), None);
}

#[test]
fn a_node_sets_which_checkpoints_it_restores() {
    let config = from_file("[restore]\ncheck = \"warn\"\naccept = \"signed\"\ntimeout = 0\n");
    let restore = config.expect("valid").restore;
    assert_eq!(restore.check, Check::Warn);
    assert_eq!(restore.accept, Accept::Signed);
    assert_eq!(restore.timeout, None);
    let config = from_env("CEDANA_RESTORE_TIMEOUT", "90s").expect("valid");
    assert_eq!(
        config.restore.timeout.map(|limit| limit.as_secs()),
        Some(90)
    );
    assert_eq!(
        message(from_file("[restore]\naccept = \"mine\"\n")),
        "config.toml:2: restore.accept: \"mine\" is none of any, ours and signed"
    );
}

#[test]
fn settle_is_limited_to_ten_seconds() {
    assert!(from_env("CEDANA_RESTORE_SETTLE", "10s").is_ok());
    assert!(from_env("CEDANA_RESTORE_SETTLE", "11s").is_err());
}
