//! The daemon's log: lines on stderr, in the format of the other programs. systemd adds
//! them to the journal.

use std::io::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::job::quote::printable;

struct Logger;

/// Starts logging.
pub(crate) fn init(debug: bool) {
    // Fails only if it was called before.
    let _ = log::set_logger(&Logger);
    log::set_max_level(match debug {
        true => LevelFilter::Debug,
        false => LevelFilter::Info,
    });
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries are quiet unless something is wrong.
        metadata.target().starts_with("cedana") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = OffsetDateTime::now_utc().truncate_to_second();
            let time = now.format(&Rfc3339).unwrap_or_default();
            let line = line(&time, record.level(), &record.args().to_string());
            // There is no other place for it.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(time: &str, level: Level, message: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let message = printable(&message.replace('\n', "; "));
    format!(
        "time=\"{time}\" level={level} msg={}\n",
        serde_json::Value::from(message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(
            line("T", Level::Warn, "a \"b\"\nc\x1b"),
            "time=\"T\" level=warning msg=\"a \\\"b\\\"; c\\\\u{1b}\"\n"
        );
    }
}
