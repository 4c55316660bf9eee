//! The table of all settings.

use crate::limit::Limited;
use crate::text::Text;
use crate::value::{self, Parsed};
use crate::{ANNOTATION_PREFIX, Config, ENV_PREFIX};

/// One setting.
pub(crate) struct Setting {
    /// Name in the file, with its section: `checkpoint.timeout`. The annotation has
    /// the same name after a prefix, the variable the same in capitals.
    pub(crate) key: &'static str,
    /// What a container's annotation may do.
    pub(crate) by_annotation: ByAnnotation,
    for_users: bool,
    set: fn(&mut Config, &str) -> Parsed<()>,
    get: fn(&Config) -> String,
}

/// What an annotation may do to a setting. Annotations may come from users who do not
/// administer the node.
pub(crate) enum ByAnnotation {
    /// Nothing: it is refused.
    Refused,
    /// Choose any value.
    Any,
    /// Choose a value within the node's. The function puts the node's value back if
    /// the chosen one is beyond it, and returns its text.
    Within(fn(&mut Config, &Config) -> Option<String>),
}

impl Setting {
    pub(crate) fn set(&self, config: &mut Config, text: &str) -> Parsed<()> {
        (self.set)(config, text)
    }

    /// The value as the settings file has it, without quotes.
    pub(crate) fn get(&self, config: &Config) -> String {
        (self.get)(config)
    }

    /// Whether a user's own file may set it: not what the node decides.
    pub(crate) fn is_for_users(&self) -> bool {
        self.for_users
    }

    /// Whether a caller of the daemon may send it.
    pub(crate) fn is_for_calls(&self) -> bool {
        !matches!(self.by_annotation, ByAnnotation::Refused)
    }

    /// The name of the variable, without the prefix.
    pub(crate) fn variable(&self) -> String {
        self.key.replace('.', "_").to_uppercase()
    }
}

/// A row of the table. The second column says what an annotation may do:
///
/// ```text
/// NODE   nothing: what runs as root, where it writes, what the node spends, and
///        which checkpoints it restores
/// DOWN   only turn it down: what costs the node more, or skips a check
/// FREE   anything: what concerns the container alone
/// USER   nothing, but a user's own file may: what concerns that user's commands alone
/// ```
macro_rules! setting {
    ($key:literal, $by:ident, $parse:path => $($field:ident).+) => {
        Setting {
            key: $key,
            by_annotation: setting!(@$by $($field).+),
            for_users: !matches!(stringify!($by).as_bytes(), b"NODE"),
            get: |config| Text::text(&config.$($field).+),
            set: |config, text| {
                config.$($field).+ = $parse(text)?;
                Ok(())
            },
        }
    };
    (@NODE $($field:ident).+) => { ByAnnotation::Refused };
    (@USER $($field:ident).+) => { ByAnnotation::Refused };
    (@FREE $($field:ident).+) => { ByAnnotation::Any };
    (@DOWN $($field:ident).+) => {
        ByAnnotation::Within(|config, node| {
            let limit = node.$($field).+;
            if config.$($field).+.is_within(limit) {
                return None;
            }
            config.$($field).+ = limit;
            Some(Text::text(&limit))
        })
    };
}

static SETTINGS: [Setting; 36] = [
    setting!("runtime", NODE, value::program => runtime),
    setting!("log_dir", NODE, value::absolute => log_dir),
    setting!("log_keep", NODE, value::count => log_keep),
    setting!("checkpoint.leave_running", FREE, value::boolean_or_auto => checkpoint.leave_running),
    setting!("checkpoint.resume_early", DOWN, value::resume_early => checkpoint.resume_early),
    setting!("checkpoint.doubtful", DOWN, value::doubtful => checkpoint.doubtful),
    setting!("checkpoint.tcp_established", FREE, value::boolean => checkpoint.tcp_established),
    setting!("checkpoint.file_locks", FREE, value::boolean => checkpoint.file_locks),
    setting!("checkpoint.ext_unix_sk", DOWN, value::boolean => checkpoint.ext_unix_sk),
    setting!("checkpoint.link_remap", DOWN, value::boolean => checkpoint.link_remap),
    setting!("checkpoint.ghost_limit", DOWN, value::size => checkpoint.ghost_limit),
    setting!("checkpoint.timeout", DOWN, value::whole_seconds => checkpoint.timeout),
    setting!("checkpoint.compression", DOWN, value::compression => checkpoint.compression),
    setting!("checkpoint.level", DOWN, value::level => checkpoint.level),
    setting!("checkpoint.memory", NODE, value::memory => checkpoint.memory),
    setting!("checkpoint.spare_memory", NODE, value::boolean => checkpoint.spare_memory),
    setting!("checkpoint.store", DOWN, value::storage => checkpoint.store),
    setting!("restore.mode", DOWN, value::mode => restore.mode),
    setting!("restore.prefetch_cores", NODE, value::cores => restore.prefetch_cores),
    setting!("restore.tcp", FREE, value::tcp => restore.tcp),
    setting!("restore.settle", FREE, value::short_wait => restore.settle),
    setting!("restore.memory", NODE, value::memory => restore.memory),
    setting!("restore.check", NODE, value::check => restore.check),
    setting!("restore.accept", NODE, value::accept => restore.accept),
    setting!("restore.timeout", NODE, value::time_limit => restore.timeout),
    setting!("criu.config_annotation", NODE, value::config_annotation => criu.config_annotation),
    setting!("daemon.socket", NODE, value::absolute => daemon.socket),
    setting!("daemon.tcp", NODE, value::address_or_off => daemon.tcp),
    setting!("daemon.tls_certificate", NODE, value::absolute_or_none => daemon.tls_certificate),
    setting!("daemon.tls_key", NODE, value::absolute_or_none => daemon.tls_key),
    setting!("daemon.tls_client_ca", NODE, value::absolute_or_none => daemon.tls_client_ca),
    setting!("shared_storage.dump_storage_dir", USER, value::absolute_or_none => shared_storage.dump_storage_dir),
    setting!("store.path", NODE, value::absolute => store.path),
    setting!("store.quota", NODE, value::size => store.quota),
    setting!("store.grace", NODE, value::duration => store.grace),
    setting!("store.gc_interval", NODE, value::period => store.gc_interval),
];

/// All settings, in the order of the example.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter()
}

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
        .filter(|setting| !matches!(setting.by_annotation, ByAnnotation::Refused))
        .map(|setting| format!("{ANNOTATION_PREFIX}{}", setting.key))
}

/// The keys that a caller of the daemon may send.
pub(crate) fn call_keys() -> impl Iterator<Item = String> {
    all()
        .filter(|setting| setting.is_for_calls())
        .map(|setting| setting.key.to_owned())
}

/// The names that a user's own file may have.
pub(crate) fn user_keys() -> impl Iterator<Item = String> {
    all()
        .filter(|setting| setting.is_for_users())
        .map(|setting| setting.key.to_owned())
}
