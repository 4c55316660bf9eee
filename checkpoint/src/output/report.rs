//! Errors and warnings: one line on stderr, and one in the file given by `--log`.
//! The file is in the wrapped runtime's formats, because containerd's shims take the
//! error that they show from its last entry.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::output::printable::{printable, to_stderr};
use crate::output::timestamp::rfc3339;

/// Writes to stderr and the log file.
#[derive(Debug)]
pub struct Reporter {
    program: &'static str,
    log: Option<PathBuf>,
    json: bool,
}

impl Reporter {
    /// Of this program, with this log file, if any, in addition to stderr.
    #[must_use]
    pub fn new(program: &'static str, log: Option<PathBuf>, json: bool) -> Self {
        Self { program, log, json }
    }

    /// The log file, and whether it is JSON.
    #[must_use]
    pub fn log(&self) -> (Option<&std::path::Path>, bool) {
        (self.log.as_deref(), self.json)
    }

    /// Writes a warning that needs no action, to the log alone; dropped without a log.
    pub fn remark(&self, message: &dyn Display) {
        if self.log.is_some() {
            self.quiet_warning(message);
        }
    }

    /// Writes an entry of level info, to the log alone; dropped without a log.
    pub fn note(&self, message: &dyn Display) {
        if self.log.is_some() {
            self.write("info", &message.to_string(), true);
        }
    }

    /// Writes the error that ended the command.
    pub fn error(&self, message: &dyn Display) {
        self.write("error", &message.to_string(), false);
    }

    /// Writes a warning; the command continues.
    pub fn warning(&self, message: &dyn Display) {
        self.write("warning", &message.to_string(), false);
    }

    /// Writes a warning during a restore, where stderr is the container's own and
    /// our text would look like the application's. It goes to the log alone if
    /// there is one.
    pub fn quiet_warning(&self, message: &dyn Display) {
        self.write("warning", &message.to_string(), true);
    }

    fn write(&self, level: &str, message: &str, to_log_alone: bool) {
        // One line: a client shows the first and parses the log by lines.
        let message = printable(&message.replace('\n', "; "));
        let prefix = if level == "error" { "" } else { "warning: " };
        if !(to_log_alone && self.log.is_some()) {
            to_stderr(&format!("{}: {prefix}{message}\n", self.program));
        }
        let Some(path) = &self.log else { return };
        let entry = entry(
            self.json,
            level,
            &message,
            &rfc3339(OffsetDateTime::now_utc()),
        );
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(entry.as_bytes()));
        if let Err(error) = written {
            to_stderr(&format!(
                "{}: warning: cannot write the log {}: {error}\n",
                self.program,
                path.display()
            ));
        }
    }
}

fn entry(json: bool, level: &str, message: &str, time: &str) -> String {
    let quoted = serde_json::Value::from(message);
    if json {
        format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n")
    } else {
        format!("time=\"{time}\" level={level} msg={quoted}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let line = entry(true, "error", "a \"b\"", "2026-01-02T03:04:05Z");
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\",\"time\":\"2026-01-02T03:04:05Z\"}\n"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
        assert_eq!(
            entry(false, "warning", "x", "T"),
            "time=\"T\" level=warning msg=\"x\"\n"
        );
    }

    #[test]
    fn entries_are_appended_as_lines() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("log.json");
        let reporter = Reporter {
            program: "test",
            log: Some(log.clone()),
            json: true,
        };
        reporter.warning(&"one\ntwo\r\x1b[2K");
        reporter.error(&"three\u{9b}");
        let text = std::fs::read_to_string(log).expect("read");
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("one; two"));
        let is_control = |letter: char| letter.is_control() && letter != '\n';
        assert!(!text.contains(is_control), "{text:?}");
    }
}
