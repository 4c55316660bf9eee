//! Layering of defaults, settings file, environment and annotations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Place};
use crate::limit::Exceeded;
use crate::setting::ByAnnotation;
use crate::{ANNOTATION_PREFIX, Config, ENV_PREFIX, RUNTIME_VARIABLE, file, setting, value};

impl Config {
    /// Reads the settings file and this process's environment.
    ///
    /// If `CEDANA_CONFIG` names a file, it must exist. Otherwise the file is
    /// [`DEFAULT_PATH`](crate::DEFAULT_PATH), which may be missing.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown name, a wrong value.
    pub fn load() -> Result<Self, Error> {
        let file = file::read()?;
        Self::from_sources(
            file.as_ref()
                .map(|(path, text)| (path.as_path(), text.as_str())),
            process_environment(),
        )
    }

    /// Returns the defaults, overridden by the text of a settings file, overridden
    /// by environment variables. A variable that begins like a setting
    /// (`CEDANA_RESTORE_`) must be one. Other `CEDANA_` variables (`CEDANA_URL`)
    /// may belong to other programs and are ignored.
    ///
    /// # Errors
    /// A file that cannot be parsed, an unknown name, a wrong value.
    pub fn from_sources(
        file: Option<(&Path, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let mut config = Self::default();
        if let Some((path, text)) = file {
            file::apply(&mut config, path, text, |_| {})?;
        }
        config.apply_environment(env, |_, _| {})?;
        Ok(config)
    }

    /// Applies environment variables, and tells the key and the variable of each.
    pub(crate) fn apply_environment(
        &mut self,
        env: impl IntoIterator<Item = (String, String)>,
        mut applied: impl FnMut(&'static str, &str),
    ) -> Result<(), Error> {
        // Sorted, so that the same one of two errors is reported every time.
        let env: BTreeMap<_, _> = env.into_iter().collect();
        for (name, text) in &env {
            let Some(key) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let place = Place::Environment;
            let setting = match setting::by_variable(key) {
                Some(setting) => setting,
                None if !setting::looks_like_variable(key) => continue,
                None => return Err(Error::unknown(place, name, setting::variables())),
            };
            setting
                .set(self, text)
                .map_err(|reason| Error::value(place, name, reason))?;
            applied(setting.key, name);
        }
        Ok(())
    }

    /// Returns the settings overridden by a container's `io.cedana.` annotations.
    /// Other annotations are ignored.
    ///
    /// Annotations may come from users who do not administer the node, so a setting
    /// that costs the node more or skips a check can only be turned down. If one is
    /// turned up, the node's value stays, and `warn` is called.
    ///
    /// # Errors
    /// An `io.cedana.` annotation that is unknown, has a wrong value, or names a
    /// setting of the node. A container must not choose, for example, a program
    /// that runs as root.
    pub fn with_annotations<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
        mut warn: impl FnMut(&Exceeded),
    ) -> Result<Self, Error> {
        let node = self.clone();
        let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
        for (name, text) in annotations {
            if let Some(key) = name.strip_prefix(ANNOTATION_PREFIX) {
                self.apply_one(Some(&node), Place::Annotation, (name, key), text, &mut warn)?;
            }
        }
        Ok(self)
    }

    /// Returns the settings overridden by those that a caller of the daemon sends, by
    /// their keys: what a container may set by annotation. Unless the caller is root, the
    /// limits are the same, too.
    ///
    /// # Errors
    /// As of [`with_annotations`](Self::with_annotations).
    pub fn with_call<'a>(
        mut self,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
        is_root: bool,
        mut warn: impl FnMut(&Exceeded),
    ) -> Result<Self, Error> {
        let node = (!is_root).then(|| self.clone());
        let settings: BTreeMap<_, _> = settings.into_iter().collect();
        for (key, text) in settings {
            self.apply_one(node.as_ref(), Place::Call, (key, key), text, &mut warn)?;
        }
        Ok(self)
    }

    /// Applies one setting, of this name in its place and with this key, within the
    /// limits of `node`.
    fn apply_one(
        &mut self,
        node: Option<&Self>,
        place: Place,
        (name, key): (&str, &str),
        text: &str,
        warn: &mut dyn FnMut(&Exceeded),
    ) -> Result<(), Error> {
        let names: fn() -> Vec<String> = match place {
            Place::Annotation => || setting::annotations().collect(),
            _ => || setting::call_keys().collect(),
        };
        let setting =
            setting::by_key(key).ok_or_else(|| Error::unknown(place.clone(), name, names()))?;
        if matches!(setting.by_annotation, ByAnnotation::Refused) {
            return Err(match place {
                Place::Call => Error::NotByCall { key: setting.key },
                _ => Error::NotByAnnotation {
                    name: name.to_owned(),
                    key: setting.key,
                },
            });
        }
        setting
            .set(self, text)
            .map_err(|reason| Error::value(place.clone(), name, reason))?;
        if let (Some(node), ByAnnotation::Within(limit)) = (node, &setting.by_annotation)
            && let Some(limit) = limit(self, node)
        {
            let what = match place {
                Place::Annotation => "annotation",
                _ => "setting",
            };
            warn(&Exceeded {
                name: format!("{what} {name}"),
                asked: text.to_owned(),
                limit,
                key: setting.key,
            });
        }
        Ok(())
    }

    /// Returns the wrapped runtime, for everything but checkpoints and restores, and
    /// the first mistake in the settings, which the caller reports as a
    /// [warning](Error::warning). No mistake may keep `kill` or `delete` from working.
    ///
    /// With a mistake the runtime is that of the highest layer that has a valid one. A
    /// file that is not valid TOML counts if its `runtime` line itself is valid.
    #[must_use]
    pub fn load_runtime() -> (PathBuf, Option<Error>) {
        runtime_despite_mistakes(file::read(), process_environment())
    }
}

/// [`Config::load_runtime`] for these layers.
pub(crate) fn runtime_despite_mistakes(
    file: Result<Option<(PathBuf, String)>, Error>,
    env: impl IntoIterator<Item = (String, String)>,
) -> (PathBuf, Option<Error>) {
    let (file, unreadable) = match file {
        Ok(file) => (file, None),
        Err(mistake) => (None, Some(mistake)),
    };
    let text = || file.as_ref().map(|(path, text)| (&**path, &**text));
    let env: BTreeMap<_, _> = env.into_iter().collect();
    let mistake = match Config::from_sources(text(), env.clone()) {
        Ok(config) => return (config.runtime, unreadable),
        Err(mistake) => unreadable.unwrap_or(mistake),
    };
    let runtime = env
        .get(RUNTIME_VARIABLE)
        .and_then(|name| value::program(name).ok())
        .or_else(|| text().and_then(|(path, text)| file::runtime(path, text)))
        .unwrap_or_else(|| Config::default().runtime);
    (runtime, Some(mistake))
}

/// The `CEDANA_` variables. Values that are not UTF-8 get replacement characters,
/// so they are reported as wrong values.
pub(crate) fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| {
        let name = name.into_string().ok()?;
        name.starts_with(ENV_PREFIX)
            .then(|| (name, text.to_string_lossy().into_owned()))
    })
}
