//! The settings of the command `cedana`, each with the layer that it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::limit::Exceeded;
use crate::{Config, ENV_PREFIX, file, layers, setting, user};

/// A setting, its value, and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The name, with its section.
    pub key: &'static str,
    /// The value as the settings file has it, without quotes.
    pub value: String,
    /// The layer.
    pub source: Source,
    /// Whether a request to the daemon may have it.
    pub for_calls: bool,
}

/// The layer that a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The built-in default.
    Default,
    /// The settings file, or a user's own.
    File(PathBuf),
    /// A variable.
    Environment(String),
    /// The settings file has less than a user's own asks for.
    Limit,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Limit => f.write_str("limit of the node"),
        }
    }
}

type Sources = BTreeMap<&'static str, Source>;

impl Config {
    /// The settings of a user's commands: defaults, settings file, the user's own file
    /// below this home directory, environment. Calls `warn` for each value of the user's
    /// file that is beyond the node's.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown name, a wrong value, a setting of
    /// the node in the user's file.
    pub fn for_user(
        home: Option<&Path>,
        warn: impl FnMut(&Exceeded),
    ) -> Result<(Self, Vec<Shown>), Error> {
        let own = home.map(user::read).transpose()?.flatten();
        let (config, sources) = layered(file::read()?, own, layers::process_environment(), warn)?;
        let shown = config.shown(&sources);
        Ok((config, shown))
    }

    /// The text of a user's own file, with the node's values.
    ///
    /// # Errors
    /// A mistake in the settings file.
    pub fn user_template() -> Result<String, Error> {
        let (config, _) = layered(file::read()?, None, [], |_| {})?;
        Ok(user::template(&config))
    }

    /// The environment of a program that is to have these settings.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        setting::all()
            .map(|setting| {
                (
                    format!("{ENV_PREFIX}{}", setting.variable()),
                    setting.get(self),
                )
            })
            .collect()
    }

    fn shown(&self, sources: &Sources) -> Vec<Shown> {
        setting::all()
            .map(|setting| Shown {
                key: setting.key,
                value: setting.get(self),
                source: sources.get(setting.key).cloned().unwrap_or(Source::Default),
                for_calls: setting.is_for_calls(),
            })
            .collect()
    }
}

fn layered(
    node: Option<(PathBuf, String)>,
    own: Option<(PathBuf, String)>,
    env: impl IntoIterator<Item = (String, String)>,
    mut warn: impl FnMut(&Exceeded),
) -> Result<(Config, Sources), Error> {
    let mut config = Config::default();
    let mut sources = Sources::new();
    if let Some((path, text)) = node {
        file::apply(&mut config, &path, &text, |key| {
            sources.insert(key, Source::File(path.clone()));
        })?;
    }
    if let Some((path, text)) = own {
        let mut limited = Vec::new();
        user::apply(
            &mut config,
            &path,
            &text,
            |key| drop(sources.insert(key, Source::File(path.clone()))),
            |exceeded| {
                limited.push(exceeded.key);
                warn(exceeded);
            },
        )?;
        sources.extend(limited.into_iter().map(|key| (key, Source::Limit)));
    }
    config.apply_environment(env, |key, name| {
        sources.insert(key, Source::Environment(name.to_owned()));
    })?;
    Ok((config, sources))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(
        node: &str,
        own: &str,
        env: &[(&str, &str)],
    ) -> Result<(Vec<Shown>, Vec<String>), String> {
        let mut warnings = Vec::new();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let layered = layered(
            Some(("/node".into(), node.to_owned())),
            Some(("/own".into(), own.to_owned())),
            env,
            |exceeded| warnings.push(exceeded.to_string()),
        );
        let (config, sources) = layered.map_err(|error| error.to_string())?;
        Ok((config.shown(&sources), warnings))
    }

    fn of<'a>(shown: &'a [Shown], key: &str) -> (&'a str, String) {
        let found = shown.iter().find(|shown| shown.key == key).expect(key);
        (&found.value, found.source.to_string())
    }

    #[test]
    fn each_value_has_its_source() {
        let own = r#"{"shared_storage": {"dump_storage_dir": "/home/johnAdams/cedana_dumps/"},
                      "checkpoint": {"level": -1, "file_locks": false, "ghost_limit": "1GiB"}}"#;
        let node = "log_keep = 3\n[checkpoint]\nfile_locks = true\n";
        let env = [("CEDANA_CHECKPOINT_LEVEL", "-2")];
        let (shown, warnings) = shown(node, own, &env).expect("valid");
        let expected = [
            ("log_keep", "3", "/node"),
            ("checkpoint.file_locks", "false", "/own"),
            ("checkpoint.level", "-2", "CEDANA_CHECKPOINT_LEVEL"),
            ("checkpoint.ghost_limit", "512MiB", "limit of the node"),
            (
                "shared_storage.dump_storage_dir",
                "/home/johnAdams/cedana_dumps/",
                "/own",
            ),
            ("restore.settle", "20ms", "default"),
        ];
        for (key, value, source) in expected {
            assert_eq!(of(&shown, key), (value, source.to_owned()), "{key}");
        }
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("/own: checkpoint.ghost_limit: \"1GiB\""),
            "{}",
            warnings[0]
        );
    }

    #[test]
    fn mistakes_in_a_users_file_are_named() {
        let mistake = |own| shown("", own, &[]).expect_err(own);
        assert!(mistake("{\"runtime\": \"/tmp/x\"}").contains("belongs to the node"));
        assert!(mistake("{\"daemon\": {\"tcp\": \"off\"}}").contains("belongs to the node"));
        assert!(
            mistake("{\"checkpoint\": {\"levle\": 1}}")
                .contains("did you mean \"checkpoint.level\"")
        );
        assert!(mistake("{\"checkpoint\": {\"level\": []}}").contains("expected a string"));
        assert!(mistake("{\n\n").starts_with("/own:3: "));
        assert!(mistake("{\"checkpoint\": 1}").contains("unknown setting"));
    }

    #[test]
    fn a_new_file_changes_nothing() {
        let text = user::template(&Config::default());
        let (shown, warnings) = shown("", &text, &[]).expect("valid");
        assert!(warnings.is_empty());
        for Shown {
            key, value, source, ..
        } in &shown
        {
            let setting = setting::by_key(key).expect("known");
            assert_eq!(*value, setting.get(&Config::default()), "{key}");
            assert_eq!(*source == Source::Default, !setting.is_for_users(), "{key}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_users_file_may_be_anything(text in ".*", value in ".*") {
            let _ = shown("", &text, &[]);
            let own = serde_json::json!({"checkpoint": {"ghost_limit": value}}).to_string();
            let _ = shown("", &own, &[]);
        }
    }

    #[test]
    fn a_program_gets_these_settings() {
        let own = [
            ("CEDANA_CHECKPOINT_LEVEL", "-2"),
            ("CEDANA_RESTORE_TCP", "close"),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_sources(None, own).expect("valid");
        let again = Config::from_sources(None, config.variables()).expect("valid");
        assert_eq!(again, config);
        assert_ne!(again, Config::default());
    }

    #[test]
    fn every_text_is_parsed_again() {
        for setting in setting::all() {
            let mut config = Config::default();
            let text = setting.get(&config);
            setting.set(&mut config, &text).expect(setting.key);
            assert_eq!(config, Config::default(), "{}", setting.key);
        }
    }
}
