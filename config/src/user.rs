//! A user's own file of the command `cedana`: JSON, with sections one level deep.
//!
//! It may set what concerns the user's own commands, within the limits of the node, as an
//! annotation of a container may: the daemon is root, and its settings are the node's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Place};
use crate::limit::Exceeded;
use crate::setting::{self, ByAnnotation};
use crate::{Config, MAX_FILE, file};

/// The file's place below the user's home directory.
pub const USER_FILE: &str = ".cedana/cedana_config.json";

/// Applies a user's file, and tells the key of each setting and each excess.
pub(crate) fn apply(
    config: &mut Config,
    path: &Path,
    text: &str,
    mut applied: impl FnMut(&'static str),
    mut warn: impl FnMut(&Exceeded),
) -> Result<(), Error> {
    let node = config.clone();
    let place = || Place::User {
        path: path.to_owned(),
    };
    for (key, value) in entries(path, text)? {
        let setting = setting::by_key(&key)
            .ok_or_else(|| Error::unknown(place(), &key, setting::user_keys()))?;
        if !setting.is_for_users() {
            return Err(Error::NotByUser {
                path: path.to_owned(),
                key: setting.key,
            });
        }
        let wrong = |reason| Error::value(place(), &key, reason);
        let text = scalar(&value).map_err(wrong)?;
        setting.set(config, &text).map_err(wrong)?;
        applied(setting.key);
        if let ByAnnotation::Within(limit) = setting.by_annotation
            && let Some(limit) = limit(config, &node)
        {
            warn(&Exceeded {
                name: format!("{}: {key}", path.display()),
                asked: text,
                limit,
                key: setting.key,
            });
        }
    }
    Ok(())
}

/// Reads the file of a user with this home directory; None if it does not exist.
pub(crate) fn read(home: &Path) -> Result<Option<(PathBuf, String)>, Error> {
    let path = home.join(USER_FILE);
    match file::read_bounded(&path) {
        Ok(Some(text)) => Ok(Some((path, text))),
        Ok(None) => Err(Error::TooLarge {
            path,
            limit: MAX_FILE,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// The text of a new file: all settings that a user may choose, with the node's values.
pub(crate) fn template(config: &Config) -> String {
    let mut root = Map::new();
    for setting in setting::all().filter(|setting| setting.is_for_users()) {
        let text = setting.get(config);
        let value = match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => text
                .parse::<bool>()
                .map_or_else(|_| Value::from(text), Value::from),
        };
        match setting.key.split_once('.') {
            Some((section, key)) => {
                let section = root
                    .entry(section)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(section) = section {
                    section.insert(key.to_owned(), value);
                }
            }
            None => drop(root.insert(setting.key.to_owned(), value)),
        }
    }
    format!("{:#}\n", Value::Object(root))
}

/// The keys with their sections, and their values.
fn entries(path: &Path, text: &str) -> Result<Vec<(String, Value)>, Error> {
    let syntax = |line, message: String| Error::Syntax {
        path: path.to_owned(),
        line,
        message,
    };
    let root: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| syntax(error.line(), format!("not a JSON object: {error}")))?;
    let mut found = Vec::new();
    for (name, value) in root {
        match value {
            Value::Object(section) if setting::is_section(&name) => {
                found.extend(
                    section
                        .into_iter()
                        .map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            value => found.push((name, value)),
        }
    }
    Ok(found)
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(boolean) => Ok(boolean.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!(
            "expected a string, a number or a boolean, found {other}"
        )),
    }
}
