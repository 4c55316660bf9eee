//! How a failure or a warning reaches the caller: one line on stderr, and one
//! in the file given by `--log`, in the wrapped runtime's own formats, because
//! containerd's shims take the error they show from that file's last entry.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Writes to stderr and the log file.
#[derive(Debug)]
pub(crate) struct Reporter {
    log: Option<PathBuf>,
    json: bool,
}

impl Reporter {
    /// Writes to this log, too, if there is one.
    pub(crate) fn new(log: Option<PathBuf>, json: bool) -> Self {
        Self { log, json }
    }

    /// Where it writes to, and whether as JSON.
    pub(crate) fn log(&self) -> (Option<&std::path::Path>, bool) {
        (self.log.as_deref(), self.json)
    }

    /// What the caller may want to know although it is nobody's fault: in the log
    /// alone, or nowhere.
    pub(crate) fn remark(&self, message: &dyn Display) {
        if self.log.is_some() {
            self.quiet_warning(message);
        }
    }

    /// What somebody may want to read afterwards, in the log alone.
    pub(crate) fn note(&self, message: &dyn Display) {
        if self.log.is_some() {
            self.write("info", &message.to_string(), true);
        }
    }

    /// What ended the command.
    pub(crate) fn error(&self, message: &dyn Display) {
        self.write("error", &message.to_string(), false);
    }

    /// What the caller should know although the command goes on.
    pub(crate) fn warning(&self, message: &dyn Display) {
        self.write("warning", &message.to_string(), false);
    }

    /// The same during a restore, where stderr is the container's own: what
    /// stands there would pass for the application's. It goes to the log alone,
    /// if there is one.
    pub(crate) fn quiet_warning(&self, message: &dyn Display) {
        self.write("warning", &message.to_string(), true);
    }

    fn write(&self, level: &str, message: &str, to_log_alone: bool) {
        // One line: a client shows the first and parses the log by lines.
        let message = message.replace('\n', "; ");
        let prefix = if level == "error" { "" } else { "warning: " };
        if !(to_log_alone && self.log.is_some()) {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "cedana-runc: {prefix}{message}");
        }
        let Some(path) = &self.log else { return };
        let entry = entry(self.json, level, &message, &now());
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(entry.as_bytes()));
        if let Err(error) = written {
            let _ = writeln!(
                std::io::stderr(),
                "cedana-runc: warning: cannot write the log {}: {error}",
                path.display()
            );
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

/// The time as RFC 3339 in UTC, whole seconds.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    )
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
            log: Some(log.clone()),
            json: true,
        };
        reporter.warning(&"one\ntwo");
        reporter.error(&"three");
        let text = std::fs::read_to_string(log).expect("read");
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("one; two"));
    }
}
