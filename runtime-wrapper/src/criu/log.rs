//! The log of one run of CRIU, or of the runtime that drives it, judged after a
//! failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cedana_checkpoint::criu::log::diagnose;
use cedana_checkpoint::criu::{Cause, Diagnosis};
use cedana_config::Config;

use super::log_archive::{self, LogNote};
use crate::cli::Request;
use crate::host::child::Outcome;

/// Why a dump or a restore failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The reason, and the remedy if there is one.
    pub(crate) why: Box<str>,
    /// Where CRIU's log is.
    pub(crate) log: LogNote,
}

impl Failure {
    /// A failure of which CRIU has no log.
    pub(crate) fn without_log(why: impl Into<Box<str>>) -> Self {
        Self {
            why: why.into(),
            log: LogNote::None,
        }
    }
}

/// A CRIU log, or another file that CRIU leaves, as it was before a run, to tell
/// this run's from an older one.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    before: Option<(SystemTime, u64)>,
}

impl Log {
    /// The log of a run that is about to write to this file.
    pub(crate) fn before(path: PathBuf) -> Self {
        let before = Self::state(&path);
        Self { path, before }
    }

    fn state(path: &Path) -> Option<(SystemTime, u64)> {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// The run's file may be in this directory by now.
    pub(crate) fn moved(&mut self, dir: PathBuf) {
        let there = dir.join(self.path.file_name().unwrap_or_default());
        if !self.path.exists() && there.exists() {
            self.path = there;
        }
    }

    /// Whether the run wrote this sentence into it.
    pub(crate) fn says(&self, sentence: &str) -> bool {
        self.is_new()
            && fs::read(&self.path)
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(sentence))
    }

    /// Why the run failed, as far as it is known.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.is_new().then(|| diagnose(&self.path).ok()?.cause)?
    }

    /// Whether CRIU found a reason of its own, other than that its connection to
    /// the page source has ended (criu/uffd.c).
    pub(crate) fn has_own_reason(&self) -> bool {
        let found = self.is_new().then(|| diagnose(&self.path).ok());
        found.flatten().is_some_and(|found| {
            let error = found.error.as_deref();
            found.cause.is_some() || error.is_some_and(|error| !error.starts_with("uffd: "))
        })
    }

    /// Whether the run wrote it.
    pub(crate) fn is_new(&self) -> bool {
        let now = Self::state(&self.path);
        now.is_some() && now != self.before
    }

    /// What the failure was, with the log kept for the details.
    pub(crate) fn failure(&self, request: &Request, config: &Config, outcome: &Outcome) -> Failure {
        self.failure_with(request, config, outcome, |_| ())
    }

    /// The same, where the caller knows more than the log says.
    pub(crate) fn failure_with(
        &self,
        request: &Request,
        config: &Config,
        outcome: &Outcome,
        complete: impl FnOnce(&mut Diagnosis),
    ) -> Failure {
        let (found, kept) = if self.is_new() {
            let kept = log_archive::keep(
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
        let runtime = || last_error(&outcome.stderr).or_else(|| runtimes_error(request));
        let why = found
            .or_else(|| runtime().map(with_remedy))
            .unwrap_or_else(|| format!("the wrapped runtime failed ({})", outcome.status));
        Failure {
            why: why.into(),
            log: kept,
        }
    }
}

/// The last error in the log that the caller has named to the runtime.
fn runtimes_error(request: &Request) -> Option<String> {
    let text = fs::read(request.globals.log.as_ref()?).ok()?;
    last_error(&String::from_utf8_lossy(&text))
}

/// Whether the runtime failed because a hook of the container did: one that sets
/// its network up, in the middle of CRIU's restore (runc's "error running hook #0",
/// "error running prestart hook #0").
pub(crate) fn hook_failed(request: &Request) -> bool {
    runtimes_error(request).is_some_and(|error| is_of_a_hook(&error))
}

fn is_of_a_hook(error: &str) -> bool {
    error.contains("error running") && error.contains("hook")
}

/// What CRIU answers to options that it does not take, before it has a log
/// (EBADRQC; criu/include/cr-errno.h).
const BAD_OPTIONS: &str = "errno 56";

/// The runtime's words, with the remedy where CRIU left no log.
fn with_remedy(error: String) -> String {
    match error.starts_with("criu failed") && error.contains(BAD_OPTIONS) {
        true => format!(
            "CRIU does not take its options ({error}); correct the options in /etc/criu/runc.conf, in the file that the annotation org.criu.config names, and in /etc/criu/default.conf"
        ),
        false => error,
    }
}

/// The last error in what a runtime wrote, in any of its formats: bare text on
/// stderr, or a log line of logrus as text or JSON.
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
    fn last_error_in_every_format() {
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
    fn a_hook_is_told_from_criu() {
        for said in [
            "error running hook #0: fork/exec /proc/158/exe: no such file or directory",
            "criu failed: error running prestart hook #1: exit status 1",
        ] {
            assert!(is_of_a_hook(said), "{said}");
        }
        assert!(!is_of_a_hook("criu failed: type NOTIFY errno 0"));
    }

    #[test]
    fn options_that_criu_does_not_take_have_a_remedy() {
        let said = with_remedy("criu failed: type RESTORE errno 56".to_owned());
        assert!(said.contains("org.criu.config"), "{said}");
        let other = "criu failed: type NOTIFY errno 0";
        assert_eq!(with_remedy(other.to_owned()), other);
    }

    #[test]
    fn old_log_is_not_taken_for_new() {
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
