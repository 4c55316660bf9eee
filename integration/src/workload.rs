//! The workload's side in the tests: where it is, and what it answered.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where a container finds the program.
pub const PATH: &str = "/workload";

static PROGRAM: &[u8] = include_bytes!(env!("STATIC_WORKLOAD"));

/// The program in a file of this instance, to be mounted into containers.
pub fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // One path for all test programs: a leftovers count must not see a
        // new file for each of them.
        let path = Path::new("/var/tmp/cedana-workload");
        let draft = path.with_extension(std::process::id().to_string());
        fs::write(&draft, PROGRAM)
            .and_then(|()| fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&draft, path))
            .unwrap_or_else(|error| panic!("cannot install the workload: {error}"));
        path.to_owned()
    })
}

/// What every workload holds at least, in MiB: less than 8 are restored eagerly, and
/// what a story tells has to be true of a lazy restore.
const BALLAST: &str = "12";

/// The command line of a workload that holds what `flags` name.
pub(crate) fn command_line<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&[PATH, "--ballast", BALLAST], flags].concat()
}

/// What a workload found when it verified itself.
#[derive(Debug, Clone)]
pub struct Report(BTreeMap<String, String>);

impl Report {
    /// Reads what a workload wrote.
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

    /// Drawn at random when the process started.
    #[track_caller]
    pub fn nonce(&self) -> &str {
        self.get("nonce")
    }

    /// How far the process has counted.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        let count = self.get("counter");
        count
            .parse()
            .unwrap_or_else(|_| panic!("{count} is not a count"))
    }

    /// Panics unless everything the workload holds is as it should be.
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
        assert_eq!(fixed(self), fixed(before), "this is not the same process");
    }
}
