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

/// `node` with annotations that are within its limits.
fn annotated(node: Config, annotations: &[(&str, &str)]) -> Result<Config, Error> {
    node.with_annotations(annotations.iter().copied(), |exceeded| panic!("{exceeded}"))
}

/// The settings of a node with one annotation, and the warnings.
fn asked(node: &str, name: &str, text: &str) -> (Config, Vec<String>) {
    let node = from_file(node).expect("valid");
    let mut warnings = Vec::new();
    let name = format!("io.cedana.{name}");
    let config = node
        .with_annotations([(name.as_str(), text)], |exceeded| {
            warnings.push(exceeded.to_string());
        })
        .expect("valid");
    (config, warnings)
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
        annotated(c, &[("io.cedana.restore.settle", "3s"), ("org.criu.config", "")])
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
    let misspelt = annotated(
        Config::default(),
        &[("io.cedana.checkpoint.ghostlimit", "1")],
    );
    assert!(message(misspelt).contains("io.cedana.checkpoint.ghost_limit"));
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
        "io.cedana.criu.config_annotation",
    ] {
        let result = annotated(Config::default(), &[(name, "/bin/sh")]);
        assert!(message(result).contains("belongs to the node"));
    }
}

#[test]
fn annotation_turns_a_limit_down_and_not_up() {
    let node = "[checkpoint]\nlevel = 3\nghost_limit = \"64MiB\"\ntimeout = \"30s\"\ndoubtful = \"warn\"\n";
    let (config, warnings) = asked(node, "checkpoint.level", "-2");
    assert_eq!(config.checkpoint.level, -2);
    assert!(warnings.is_empty());
    let (config, warnings) = asked(node, "checkpoint.level", "19");
    assert_eq!(config.checkpoint.level, 3);
    assert_eq!(
        warnings,
        [
            "annotation io.cedana.checkpoint.level: \"19\" is beyond the node's limit \"3\", which is used instead; to allow it, set checkpoint.level in config.toml"
        ]
    );
    let (config, warnings) = asked(node, "checkpoint.ghost_limit", "65MiB");
    assert_eq!(config.checkpoint.ghost_limit, 64 << 20);
    assert!(warnings[0].contains("\"65MiB\"") && warnings[0].contains("\"64MiB\""));
    let (config, _) = asked(node, "checkpoint.timeout", "1m");
    assert_eq!(config.checkpoint.timeout.as_secs(), 30);
    let (config, _) = asked(node, "checkpoint.doubtful", "refuse");
    assert_eq!(config.checkpoint.doubtful, Doubtful::Refuse);
    let (config, _) = asked("", "checkpoint.doubtful", "warn");
    assert_eq!(config.checkpoint.doubtful, Doubtful::Refuse);
}

#[test]
fn built_in_default_is_a_limit_too() {
    for (name, text) in [
        ("checkpoint.level", "2"),
        ("checkpoint.ghost_limit", "1GiB"),
        ("checkpoint.timeout", "61s"),
        ("checkpoint.resume_early", "container"),
        ("checkpoint.doubtful", "warn"),
    ] {
        let (config, warnings) = asked("", name, text);
        assert_eq!(config, Config::default(), "{name}");
        assert_eq!(warnings.len(), 1, "{name}");
    }
}

#[test]
fn annotation_keeps_the_checks_that_the_node_makes() {
    let node = "[checkpoint]\next_unix_sk = false\nlink_remap = false\ncompression = \"none\"\n[restore]\nmode = \"eager\"\n";
    for (name, text) in [
        ("checkpoint.ext_unix_sk", "true"),
        ("checkpoint.link_remap", "true"),
        ("checkpoint.compression", "zstd"),
        ("restore.mode", "lazy"),
    ] {
        let (config, warnings) = asked(node, name, text);
        assert_eq!(Ok(config), from_file(node).map_err(|e| e.to_string()));
        assert_eq!(warnings.len(), 1, "{name}");
    }
}

#[test]
fn annotation_chooses_freely_what_concerns_the_container_alone() {
    let node = "[checkpoint]\nleave_running = false\ntcp_established = false\nfile_locks = false\n[restore]\ntcp = \"refuse\"\nsettle = 0\n";
    for (name, text) in [
        ("checkpoint.leave_running", "true"),
        ("checkpoint.tcp_established", "true"),
        ("checkpoint.file_locks", "true"),
        ("restore.tcp", "keep"),
        ("restore.settle", "10s"),
    ] {
        let (config, warnings) = asked(node, name, text);
        assert_ne!(Ok(config), from_file(node).map_err(|e| e.to_string()));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

proptest! {
    #[test]
    fn no_file_panics(text in ".{0,400}") {
        let _ = from_file(&text);
        let _ = despite(&text, "HOME", "/");
    }

    #[test]
    fn no_value_panics(
        key in prop::sample::select(setting::keys().collect::<Vec<_>>()),
        text in "\\PC{0,40}",
    ) {
        let variable = format!("CEDANA_{}", key.replace('.', "_").to_uppercase());
        let _ = from_env(&variable, &text);
        let annotation = format!("io.cedana.{key}");
        let _ = Config::default().with_annotations([(annotation.as_str(), text.as_str())], |_| {});
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

/// The runtime and the warning for a settings file and one variable.
fn despite(file: &str, name: &str, value: &str) -> (String, Option<String>) {
    let file = Ok(Some(("config.toml".into(), file.to_owned())));
    let env = [(name.to_owned(), value.to_owned())];
    let (runtime, mistake) = layers::runtime_despite_mistakes(file, env);
    let warning = mistake.map(|mistake| mistake.warning());
    (runtime.display().to_string(), warning)
}

#[test]
fn a_mistake_leaves_the_runtime() {
    let crun = "runtime = \"crun\"\n";
    assert_eq!(despite(crun, "HOME", "/"), ("crun".to_owned(), None));
    for (rest, mistake) in [
        ("[checkpoint]\ntypo = 1\n", "config.toml:3: "),
        ("log_keep = = 3\n", "config.toml:2: "),
        ("[restore\n", "config.toml:2: "),
    ] {
        let (runtime, warning) = despite(&format!("{crun}{rest}"), "HOME", "/");
        assert_eq!(runtime, "crun", "{rest}");
        let warning = warning.expect("a warning");
        assert!(warning.contains(mistake), "{warning}");
        assert!(warning.contains("checkpoints and restores are refused"));
    }
    let (runtime, warning) = despite(crun, "CEDANA_RESTORE_SETLE", "1s");
    assert_eq!(runtime, "crun");
    assert!(warning.is_some_and(|warning| warning.contains("CEDANA_RESTORE_SETLE")));
    let (runtime, warning) = despite("typo = 1\n", "CEDANA_RUNTIME", "/usr/bin/crun");
    assert_eq!(runtime, "/usr/bin/crun");
    assert!(warning.is_some_and(|warning| warning.contains("config.toml:1")));
}

#[test]
fn a_mistake_in_the_runtime_leaves_the_layer_below() {
    let (runtime, warning) = despite("runtime = \"crun\"\n", "CEDANA_RUNTIME", "bin/runc");
    assert_eq!(runtime, "crun");
    assert!(warning.is_some_and(|warning| warning.contains("CEDANA_RUNTIME")));
    let (runtime, warning) = despite("runtime = 1.5\n", "HOME", "/");
    assert_eq!(runtime, "runc");
    assert!(warning.is_some_and(|warning| warning.contains("config.toml:1")));
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_default() {
    let error = || Error::Read {
        path: "/etc/x".into(),
        source: std::io::ErrorKind::IsADirectory.into(),
    };
    let (runtime, mistake) = layers::runtime_despite_mistakes(Err(error()), []);
    assert_eq!(runtime, Path::new("runc"));
    assert!(mistake.is_some_and(|mistake| mistake.to_string().contains("/etc/x")));
    let env = [("CEDANA_RUNTIME".to_owned(), "crun".to_owned())];
    let (runtime, mistake) = layers::runtime_despite_mistakes(Err(error()), env);
    assert_eq!(runtime, Path::new("crun"));
    assert!(mistake.is_some());
}

#[test]
fn settle_is_limited_to_ten_seconds() {
    assert!(from_env("CEDANA_RESTORE_SETTLE", "10s").is_ok());
    assert!(from_env("CEDANA_RESTORE_SETTLE", "11s").is_err());
}

#[test]
fn a_call_has_the_limits_of_a_container_unless_it_is_roots() {
    let call = |settings: &[(&str, &str)], is_root| {
        let mut warnings = Vec::new();
        let config = Config::default().with_call(settings.iter().copied(), is_root, |exceeded| {
            warnings.push(exceeded.to_string());
        });
        (config, warnings)
    };
    let more = [("checkpoint.ghost_limit", "1GiB")];
    let (config, warnings) = call(&more, true);
    assert_eq!(config.expect("valid").checkpoint.ghost_limit, 1 << 30);
    assert!(warnings.is_empty());
    let (config, warnings) = call(&more, false);
    assert_eq!(config.expect("valid"), Config::default());
    assert!(warnings[0].starts_with("setting checkpoint.ghost_limit: \"1GiB\" is beyond"));
    for (name, reason) in [
        ("runtime", "belongs to the node"),
        ("checkpoint.levle", "did you mean \"checkpoint.level\""),
    ] {
        let error = call(&[(name, "1")], true).0.expect_err("refused");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
