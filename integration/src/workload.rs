//! The workload program: its path, its command line and its report.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The program's path in a container.
pub const PATH: &str = "/workload";

static PROGRAM: &[u8] = include_bytes!(env!("STATIC_WORKLOAD"));

/// The program's file in this instance, which tests mount into containers.
pub fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // One path for all test programs, so that the leftovers test finds no new
        // file for each of them.
        let path = Path::new("/var/tmp/cedana-workload");
        let draft = path.with_extension(std::process::id().to_string());
        fs::write(&draft, PROGRAM)
            .and_then(|()| fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&draft, path))
            .unwrap_or_else(|error| panic!("cannot install the workload: {error}"));
        path.to_owned()
    })
}

/// The memory of every workload in MiB. Less than 8 MiB are restored eagerly, and the
/// stories have to hold for a lazy restore.
const BALLAST: &str = "12";

/// The command line of a workload with the state that `flags` name.
pub(crate) fn command_line<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&[PATH, "--ballast", BALLAST], flags].concat()
}

/// A workload's report of its own state.
#[derive(Debug, Clone)]
pub struct Report(BTreeMap<String, String>);

impl Report {
    /// Parses the text of a report.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// One finding, for example of `tcp`.
    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        self.0
            .get(key)
            .unwrap_or_else(|| panic!("the workload was not asked for {key}: {self:?}"))
    }

    /// A random number that the process draws when it starts.
    #[track_caller]
    pub fn nonce(&self) -> &str {
        self.get("nonce")
    }

    /// The value of the process's counter.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        let count = self.get("counter");
        count
            .parse()
            .unwrap_or_else(|_| panic!("{count} is not a count"))
    }

    /// Panics if the workload has found any of its state damaged.
    #[track_caller]
    pub fn intact(&self) -> &Self {
        for (key, value) in &self.0 {
            let sound = match key.as_str() {
                "nonce" | "counter" => true,
                child if child.starts_with("child") => value
                    .split(' ')
                    .all(|f| f.ends_with("=ok") || f.contains("nonce=")),
                _ => value == "ok",
            };
            assert!(sound, "{key} is damaged: {value}\n{self:?}");
        }
        self
    }

    /// Panics unless this is an intact, later report of the process that gave `before`.
    #[track_caller]
    pub fn continues(&self, before: &Self) {
        self.intact();
        assert!(
            self.counter() >= before.counter(),
            "counted back: {} after {}",
            self.counter(),
            before.counter()
        );
        let fixed = |r: &Self| -> Vec<(String, String)> {
            let moving = |k: &str| k == "counter";
            r.0.iter()
                .filter(|(k, _)| !moving(k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        assert_eq!(fixed(self), fixed(before), "another process than before");
    }
}
