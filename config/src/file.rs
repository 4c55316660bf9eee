//! The settings file: TOML, with sections one level deep.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Place};
use crate::{Config, DEFAULT_PATH, MAX_FILE, PATH_VARIABLE, setting};

/// Returns the settings file's path and text. `None` if `CEDANA_CONFIG` is not set
/// and the default file does not exist.
pub(crate) fn read() -> Result<Option<(PathBuf, String)>, Error> {
    let named = std::env::var_os(PATH_VARIABLE).map(PathBuf::from);
    let optional = named.is_none();
    let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
    match read_bounded(&path) {
        Ok(Some(text)) => Ok(Some((path, text))),
        Ok(None) => Err(Error::TooLarge {
            path,
            limit: MAX_FILE,
        }),
        Err(error) if optional && error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path, source }),
    }
}

pub(crate) fn read_bounded(path: &Path) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    Ok((text.len() as u64 <= MAX_FILE).then_some(text))
}

/// Applies every setting in `text`, and tells the key of each.
pub(crate) fn apply(
    config: &mut Config,
    path: &Path,
    text: &str,
    mut applied: impl FnMut(&'static str),
) -> Result<(), Error> {
    for_each_key(path, text, |place, key, value| {
        let setting = setting::by_key(key)
            .ok_or_else(|| Error::unknown(place.clone(), key, setting::keys()))?;
        scalar(value)
            .and_then(|value| setting.set(config, &value))
            .map_err(|reason| Error::value(place, key, reason))?;
        applied(setting.key);
        Ok(())
    })
}

/// The wrapped runtime that `text` names, whatever else is wrong in it.
pub(crate) fn runtime(path: &Path, text: &str) -> Option<PathBuf> {
    const KEY: &str = "runtime";
    let mut config = Config::default();
    let mut named = false;
    let mut apply = |text| {
        for_each_key(path, text, |place, key, value| {
            let Some(setting) = setting::by_key(key).filter(|_| key == KEY) else {
                return Ok(());
            };
            named = true;
            scalar(value)
                .and_then(|value| setting.set(&mut config, &value))
                .map_err(|reason| Error::value(place, key, reason))
        })
    };
    match apply(text) {
        Err(Error::Syntax { .. }) => apply(top_level_line(text, KEY)?),
        applied => applied,
    }
    .ok()
    .filter(|()| named)?;
    Some(config.runtime)
}

/// The line that sets `key` before the first section. The rest of the text need not
/// be valid TOML.
pub(crate) fn top_level_line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .take_while(|line| !line.trim_start().starts_with('['))
        .find(|line| {
            let rest = line.trim_start().strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        })
}

/// Calls `visit` with each key, in the order of the file.
fn for_each_key(
    path: &Path,
    text: &str,
    mut visit: impl FnMut(Place, &str, &DeValue<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let table = DeTable::parse(text).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(section) if setting::is_section(name.get_ref()) => {
                for (key, value) in section {
                    let key_path = format!("{}.{}", name.get_ref(), key.get_ref());
                    found.push((key.span().start, key_path, value.get_ref()));
                }
            }
            other => found.push((name.span().start, name.get_ref().to_string(), other)),
        }
    }
    found.sort_by_key(|(start, ..)| *start);
    for (start, key, value) in found {
        let place = Place::File {
            path: path.to_owned(),
            line: line_of(text, start),
        };
        visit(place, &key, value)?;
    }
    Ok(())
}

/// The text of a single value, as an environment variable would hold it.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(boolean) => Ok(boolean.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        other => Err(format!(
            "expected a string, a number or a boolean, found {}",
            other.type_str()
        )),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}
