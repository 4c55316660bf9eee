//! The flags before the verb.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::argument::Argument;
use cedana_contract::id::ContainerId;

/// Global flags that take a value, of runc 1.1 to 1.4 and crun 1.x.
const WITH_VALUE: [&str; 7] = [
    "root",
    "log",
    "log-format",
    "log-level",
    "criu",
    "rootless",
    "cgroup-manager",
];

/// Global flags without a value.
const SWITCHES: [&str; 2] = ["debug", "systemd-cgroup"];

/// Global flags that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Globals {
    pub(crate) root: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_json: bool,
    pub(crate) criu: Option<PathBuf>,
    /// The number of arguments before the verb.
    pub(super) before_verb: usize,
}

impl Globals {
    /// Reads the global flags, up to the verb or the first unknown flag.
    pub(crate) fn parse(args: &[OsString]) -> Self {
        let mut globals = Self::default();
        let mut at = 0;
        while let Some(arg) = args.get(at) {
            let (name, value) = match Argument::of(arg) {
                Argument::Flag(name, value) => (name, value),
                Argument::EndOfFlags => {
                    at += 1;
                    break;
                }
                Argument::Plain => break,
            };
            if WITH_VALUE.contains(&name.as_str()) {
                let value = value.or_else(|| {
                    at += 1;
                    args.get(at).cloned()
                });
                if let Some(value) = value {
                    globals.set(&name, value);
                }
            } else if !SWITCHES.contains(&name.as_str()) {
                // --help, --version, or a flag that only the wrapped runtime knows.
                at = args.len();
                break;
            }
            at += 1;
        }
        globals.before_verb = at.min(args.len());
        globals
    }

    /// The container that `delete` names, if these arguments are a `delete`.
    pub(crate) fn deleted_container(&self, args: &[OsString]) -> Option<ContainerId> {
        let (verb, after) = args.get(self.before_verb..)?.split_first()?;
        let is_plain = |arg: &&OsString| matches!(Argument::of(arg), Argument::Plain);
        let id = after.iter().find(is_plain)?;
        ContainerId::parse(id.to_str()?).filter(|_| verb == "delete")
    }

    fn set(&mut self, name: &str, value: OsString) {
        let path = || (!value.is_empty()).then(|| PathBuf::from(&value));
        match name {
            "root" => self.root = path(),
            "log" => self.log = log_file(&value),
            "log-format" => self.log_json = value == "json",
            "criu" => self.criu = path(),
            _ => {}
        }
    }
}

/// The file that `--log` names. crun also takes file:PATH, journald:ID and
/// syslog:ID.
fn log_file(value: &OsStr) -> Option<PathBuf> {
    match value.to_str() {
        Some(text) if text.starts_with("journald:") || text.starts_with("syslog:") => None,
        Some(text) if text.starts_with("file:") => Some(PathBuf::from(&text[5..])),
        _ => (!value.is_empty()).then(|| PathBuf::from(value)),
    }
}
