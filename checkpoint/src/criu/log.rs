//! CRIU's log, and the one thing in it that matters after a failure.
//!
//! A log line is `(00.012345)     42: Error (criu/sk-inet.c:200): inet: text`.
//! A failing CRIU writes several errors: first, sometimes, harmless ones from
//! its feature probes, then the cause, then what follows from it. So the first
//! error that has a known meaning is the answer, and if none has, the first that
//! is not known to be harmless is quoted.
//!
//! A log can be as large as the container has processes and files; only its end
//! is read, since CRIU stops at its first real error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{Cause, Version};

/// How much of a log's end is read. The errors of a failed run are within the
/// last few hundred lines; 4 MiB is some forty thousand.
const TAIL: u64 = 4 << 20;

/// How much of the beginning is read, for the version line.
const HEAD: u64 = 4 << 10;

/// The longest quotation of an error without known meaning.
const QUOTE: usize = 300;

/// Errors of probes that CRIU recovers from.
const HARMLESS: [&str; 6] = [
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    "Can't create nftables",
    "mlock_agent",
    "Dumping FAILED",
    "Restoring FAILED",
    "Can't find plugin",
];

/// What a log says about a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The known cause.
    pub cause: Option<Cause>,
    /// The first error that is not harmless, as CRIU wrote it.
    pub error: Option<String>,
    /// The CRIU that wrote the log.
    pub version: Option<Version>,
}

impl Diagnosis {
    /// One sentence, or nothing if the log has no error.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        match (&self.cause, &self.error) {
            (Some(Cause::TooOld | Cause::Vdso), _) if self.version.is_some() => {
                let version = self.version.map(|v| format!(" (CRIU {v})"));
                let cause = self.cause.as_ref().map(Cause::to_string);
                Some(cause.unwrap_or_default() + &version.unwrap_or_default())
            }
            (Some(cause), _) => Some(cause.to_string()),
            (None, Some(error)) => Some(format!("CRIU says \"{error}\"")),
            (None, None) => None,
        }
    }
}

/// Reads the log at `path`.
///
/// # Errors
/// The file can't be read.
pub fn diagnose(path: &Path) -> io::Result<Diagnosis> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let mut diagnosis = diagnose_text(&String::from_utf8_lossy(&tail));
    diagnosis.version = Version::parse(&String::from_utf8_lossy(&head));
    Ok(diagnosis)
}

/// The same for a log, or the end of one, in memory.
#[must_use]
pub fn diagnose_text(log: &str) -> Diagnosis {
    let errors = || log.lines().filter_map(error_of);
    Diagnosis {
        cause: errors().find_map(Cause::of),
        error: errors()
            .find(|error| !HARMLESS.iter().any(|text| error.contains(text)))
            .map(|error| error.chars().take(QUOTE).collect()),
        version: Version::parse(log),
    }
}

/// The message of an error line.
fn error_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Error (")?;
    let (_, message) = rest.split_once("): ")?;
    Some(message.trim())
}

#[cfg(test)]
mod tests;
