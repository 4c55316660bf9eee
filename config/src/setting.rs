//! The table of all settings.

use crate::value::{self, Parsed};
use crate::{ANNOTATION_PREFIX, Config, ENV_PREFIX};

/// One setting.
pub(crate) struct Setting {
    /// Name in the file, with its section: `checkpoint.timeout`. The annotation has
    /// the same name after a prefix, the variable the same in capitals.
    pub(crate) key: &'static str,
    /// Whether a container may set it.
    pub(crate) annotation: bool,
    set: fn(&mut Config, &str) -> Parsed<()>,
}

impl Setting {
    pub(crate) fn set(&self, config: &mut Config, text: &str) -> Parsed<()> {
        (self.set)(config, text)
    }

    fn variable(&self) -> String {
        self.key.replace('.', "_").to_uppercase()
    }
}

macro_rules! setting {
    ($key:literal, $annotation:ident, $parse:path => $($field:ident).+) => {
        Setting {
            key: $key,
            annotation: $annotation,
            set: |config, text| {
                config.$($field).+ = $parse(text)?;
                Ok(())
            },
        }
    };
}

/// Set for the node only: no annotation.
const NODE: bool = false;
/// May be set for a container by annotation.
const CONTAINER: bool = true;

static SETTINGS: [Setting; 24] = [
    setting!("runtime", NODE, value::program => runtime),
    setting!("log_dir", NODE, value::absolute => log_dir),
    setting!("log_keep", NODE, value::count => log_keep),
    setting!("checkpoint.leave_running", CONTAINER, value::boolean_or_auto => checkpoint.leave_running),
    setting!("checkpoint.resume_early", CONTAINER, value::resume_early => checkpoint.resume_early),
    setting!("checkpoint.doubtful", CONTAINER, value::doubtful => checkpoint.doubtful),
    setting!("checkpoint.tcp_established", CONTAINER, value::boolean => checkpoint.tcp_established),
    setting!("checkpoint.file_locks", CONTAINER, value::boolean => checkpoint.file_locks),
    setting!("checkpoint.ext_unix_sk", CONTAINER, value::boolean => checkpoint.ext_unix_sk),
    setting!("checkpoint.link_remap", CONTAINER, value::boolean => checkpoint.link_remap),
    setting!("checkpoint.ghost_limit", CONTAINER, value::size => checkpoint.ghost_limit),
    setting!("checkpoint.timeout", CONTAINER, value::whole_seconds => checkpoint.timeout),
    setting!("checkpoint.compression", CONTAINER, value::compression => checkpoint.compression),
    setting!("checkpoint.level", CONTAINER, value::level => checkpoint.level),
    setting!("checkpoint.memory", NODE, value::memory => checkpoint.memory),
    setting!("checkpoint.spare_memory", NODE, value::boolean => checkpoint.spare_memory),
    setting!("restore.mode", CONTAINER, value::mode => restore.mode),
    setting!("restore.prefetch_cores", NODE, value::cores => restore.prefetch_cores),
    setting!("restore.tcp", CONTAINER, value::tcp => restore.tcp),
    setting!("restore.settle", CONTAINER, value::short_wait => restore.settle),
    setting!("restore.memory", NODE, value::memory => restore.memory),
    setting!("restore.check", NODE, value::check => restore.check),
    setting!("restore.accept", NODE, value::accept => restore.accept),
    setting!("restore.timeout", NODE, value::time_limit => restore.timeout),
];

/// The setting with this key in the file.
pub(crate) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The setting with this variable name, given without the prefix.
pub(crate) fn by_variable(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.variable() == name)
}

/// Whether a variable name, given without the prefix, begins like that of a
/// setting: with a section, or with the `LOG_` of the log settings.
pub(crate) fn looks_like_variable(name: &str) -> bool {
    SETTINGS.iter().any(|setting| {
        let variable = setting.variable();
        variable
            .split_once('_')
            .is_some_and(|(head, _)| name.strip_prefix(head).is_some_and(|n| n.starts_with('_')))
    })
}

/// Whether the file has a section of this name.
pub(crate) fn is_section(name: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.key.split_once('.').is_some_and(|(s, _)| s == name))
}

pub(crate) fn keys() -> impl Iterator<Item = String> {
    SETTINGS.iter().map(|setting| setting.key.to_owned())
}

pub(crate) fn variables() -> impl Iterator<Item = String> {
    SETTINGS
        .iter()
        .map(|setting| format!("{ENV_PREFIX}{}", setting.variable()))
}

pub(crate) fn annotations() -> impl Iterator<Item = String> {
    SETTINGS
        .iter()
        .filter(|setting| setting.annotation)
        .map(|setting| format!("{ANNOTATION_PREFIX}{}", setting.key))
}
