//! The log of one run of CRIU, or of the runtime that runs it, and the cause of a
//! failure in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cedana_checkpoint::criu::log::{diagnose, diagnosed_own_reason, succeeded};
use cedana_checkpoint::criu::{Cause, Diagnosis};
use cedana_config::Config;

use crate::cli::Request;
use crate::host::child::Outcome;
use cedana_checkpoint::criu::log_archive::{self, LogNote};

/// Why a dump or a restore failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The reason, and the remedy if there is one.
    pub(crate) why: Box<str>,
    /// The copy of CRIU's log.
    pub(crate) log: LogNote,
}

impl Failure {
    /// A failure without a log of CRIU.
    pub(crate) fn without_log(why: impl Into<Box<str>>) -> Self {
        Self {
            why: why.into(),
            log: LogNote::None,
        }
    }
}

/// A CRIU log, or another file that CRIU writes, and its state before a run, which
/// tells this run's file from an older one.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    before: Option<(SystemTime, u64)>,
}

impl Log {
    /// The log of a run that has not started yet.
    pub(crate) fn before(path: PathBuf) -> Self {
        let before = Self::state(&path);
        Self { path, before }
    }

    fn state(path: &Path) -> Option<(SystemTime, u64)> {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// Follows the run's file if it was moved to this directory.
    pub(crate) fn moved(&mut self, dir: &Path) {
        let there = dir.join(self.path.file_name().unwrap_or_default());
        if !self.path.exists() && there.exists() {
            self.path = there;
        }
    }

    /// What is written to it from now on.
    pub(crate) fn growth(&self) -> Growth {
        Growth {
            path: self.path.clone(),
            last: Self::state(&self.path),
        }
    }

    /// Whether it says that the run succeeded. A container can imitate that, so the
    /// caller needs another sign, too ([`succeeded`]).
    pub(crate) fn says_success(&self) -> bool {
        self.is_new() && succeeded(&self.path).unwrap_or(false)
    }

    /// The cause of the run's failure, `None` if it is unknown.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.is_new().then(|| diagnose(&self.path).ok()?.cause)?
    }

    /// Whether CRIU failed for a reason other than the end of its connection to the
    /// page source (criu/uffd.c).
    pub(crate) fn has_own_reason(&self) -> bool {
        let found = self.is_new().then(|| diagnose(&self.path).ok());
        found.flatten().as_ref().is_some_and(diagnosed_own_reason)
    }

    /// Whether the run wrote it.
    pub(crate) fn is_new(&self) -> bool {
        let now = Self::state(&self.path);
        now.is_some() && now != self.before
    }

    /// The failure; the log is archived.
    pub(crate) fn failure(&self, request: &Request, config: &Config, outcome: &Outcome) -> Failure {
        self.failure_with(request, config, outcome, |_| ())
    }

    /// The failure, after `complete` has added to the log's diagnosis; the log is
    /// archived.
    pub(crate) fn failure_with(
        &self,
        request: &Request,
        config: &Config,
        outcome: &Outcome,
        complete: impl FnOnce(&mut Diagnosis),
    ) -> Failure {
        let (found, kept) = if self.is_new() {
            let kept = log_archive::archive(
                &config.log_dir,
                config.log_keep,
                &request.id,
                request.verb,
                &self.path,
            );
            let mut found = diagnose(&self.path).unwrap_or_default();
            complete(&mut found);
            (found.sentence(), kept)
        } else {
            (None, LogNote::None)
        };
        let runtime = || last_error(&outcome.stderr).or_else(|| runtime_error(request));
        let why = found
            .or_else(|| runtime().map(with_remedy))
            .unwrap_or_else(|| format!("the wrapped runtime failed ({})", outcome.status));
        Failure {
            why: why.into(),
            log: kept,
        }
    }
}

/// A log that is being written.
pub(crate) struct Growth {
    path: PathBuf,
    last: Option<(SystemTime, u64)>,
}

impl Growth {
    /// Whether something was written since the last call.
    pub(crate) fn has_grown(&mut self) -> bool {
        let now = Log::state(&self.path);
        std::mem::replace(&mut self.last, now) != now
    }

    /// Whether it says that the run succeeded, like [`Log::says_success`].
    pub(crate) fn says_success(&self) -> bool {
        succeeded(&self.path).unwrap_or(false)
    }
}

/// The last error in the runtime's log (`--log`).
fn runtime_error(request: &Request) -> Option<String> {
    let text = fs::read(request.globals.log.as_ref()?).ok()?;
    last_error(&String::from_utf8_lossy(&text))
}

/// Whether the runtime failed because a hook of the container failed. Docker's hook,
/// for instance, sets the network up in the middle of CRIU's restore (runc's "error
/// running hook #0", "error running prestart hook #0").
pub(crate) fn hook_failed(request: &Request) -> bool {
    runtime_error(request).is_some_and(|error| is_hook_error(&error))
}

fn is_hook_error(error: &str) -> bool {
    error.contains("error running") && error.contains("hook")
}

/// CRIU's answer to options that it does not accept, before it opens its log (EBADRQC;
/// criu/include/cr-errno.h).
const BAD_OPTIONS: &str = "errno 56";

/// The runtime's error text, with the remedy if CRIU refused its options.
fn with_remedy(error: String) -> String {
    match error.starts_with("criu failed") && error.contains(BAD_OPTIONS) {
        true => format!(
            "CRIU does not accept its options ({error}); correct the options in /etc/criu/runc.conf, in the file that the annotation org.criu.config names, and in /etc/criu/default.conf"
        ),
        false => error,
    }
}

/// The last error in a runtime's output, in any of its formats: plain text on
/// stderr, or lines of logrus as text or JSON.
fn last_error(text: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let line = line.trim();
        if line.starts_with('{') {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            let level = entry.get("level").and_then(|level| level.as_str());
            return match level {
                Some("error" | "fatal") => entry.get("msg")?.as_str().map(str::to_owned),
                _ => None,
            };
        }
        if let Some((head, message)) = line.split_once(" msg=") {
            let is_error = head.ends_with("level=error") || head.ends_with("level=fatal");
            let unquoted = serde_json::from_str(message).unwrap_or_else(|_| message.to_owned());
            return is_error.then_some(unquoted);
        }
        (!line.is_empty()).then(|| line.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_found_in_every_format() {
        assert_eq!(
            last_error("warn\nbad thing\n\n").as_deref(),
            Some("bad thing")
        );
        assert_eq!(
            last_error(
                "time=\"x\" level=error msg=\"a \\\"b\\\"\"\ntime=\"x\" level=warning msg=c\n"
            )
            .as_deref(),
            Some("a \"b\"")
        );
        assert_eq!(
            last_error(
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"warning\",\"msg\":\"x\"}\n"
            )
            .as_deref(),
            Some("first")
        );
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn errors_of_hooks_are_recognized() {
        for said in [
            "error running hook #0: fork/exec /proc/158/exe: no such file or directory",
            "criu failed: error running prestart hook #1: exit status 1",
        ] {
            assert!(is_hook_error(said), "{said}");
        }
        assert!(!is_hook_error("criu failed: type NOTIFY errno 0"));
    }

    #[test]
    fn refused_options_have_a_remedy() {
        let said = with_remedy("criu failed: type RESTORE errno 56".to_owned());
        assert!(said.contains("org.criu.config"), "{said}");
        let other = "criu failed: type NOTIFY errno 0";
        assert_eq!(with_remedy(other.to_owned()), other);
    }

    #[test]
    fn logs_of_older_runs_are_told_apart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("dump.log");
        fs::write(&path, "old").expect("write");
        let log = Log::before(path.clone());
        assert!(!log.is_new());
        fs::write(&path, "newer").expect("write");
        assert!(log.is_new());
        assert!(!Log::before(dir.path().join("none")).is_new());
    }
}
