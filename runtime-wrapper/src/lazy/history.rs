//! What lazy restores took: a line of JSON for each of the last few.
//!
//! They are in `/run/cedana/restores.jsonl`, which is for root alone and gone
//! with a reboot. `cedana-runc inspect --restores` shows them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use cedana_checkpoint::lazy::Metrics;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::control::text;
use crate::output::units;

const DIR: &str = "/run/cedana";
const FILE: &str = "restores.jsonl";

/// How many are kept.
const KEPT: usize = 256;

/// More than so many lines have; the rest of a file that is larger isn't ours.
const MAX_BYTES: u64 = 1 << 20;

/// The record of one restore, while it goes on.
pub(super) struct Record {
    id: String,
    begun: Instant,
    /// How much earlier `cedana-runc restore` had begun.
    before: Duration,
    running: Option<Duration>,
}

impl Record {
    pub(super) fn new(settings: &Value, begun: Instant) -> Self {
        let before = settings.get("elapsed_us").and_then(Value::as_u64);
        Self {
            id: text(settings, "id").unwrap_or_default().to_owned(),
            begun,
            before: Duration::from_micros(before.unwrap_or_default()),
            running: None,
        }
    }

    fn elapsed(&self) -> Duration {
        self.before + self.begun.elapsed()
    }

    /// The container's processes are about to be set going.
    pub(super) fn running(&mut self) {
        self.running = Some(self.elapsed());
    }

    /// Writes it down, and gives the line for the log.
    pub(super) fn write(&self, metrics: &Metrics, failed: Option<&str>) -> String {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = self.elapsed();
        let record = json!({
            "id": self.id,
            "at": time::OffsetDateTime::now_utc().unix_timestamp(),
            "running_us": self.running.map(micros),
            "complete_us": failed.is_none().then(|| micros(now)),
            "failed": failed,
            "lazy_bytes": metrics.lazy_bytes,
            "faults": metrics.faults,
            "fault_mean_us": micros(metrics.mean_fault),
            "fault_p99_us": micros(metrics.p99_fault),
            "fault_max_us": micros(metrics.max_fault),
            "faulted_bytes": metrics.faulted_bytes,
            "prefetched_bytes": metrics.prefetched_bytes,
            "expected_bytes": metrics.expected_bytes,
        });
        // What can't be noted has happened all the same.
        let _ = append(Path::new(DIR), &record);
        sentence(&record)
    }
}

/// A restore in a line for people.
fn sentence(record: &Value) -> String {
    let number = |key: &str| record.get(key).and_then(Value::as_u64);
    let time = |key: &str| match number(key) {
        Some(micros) => units::duration(micros),
        None => "an unknown time".to_owned(),
    };
    format!(
        "restored lazily: running after {}, memory complete after {} ({}); {} faults, mean {}, p99 {}, {} prefetched",
        time("running_us"),
        time("complete_us"),
        units::bytes(number("lazy_bytes").unwrap_or_default()),
        number("faults").unwrap_or_default(),
        time("fault_mean_us"),
        time("fault_p99_us"),
        units::bytes(number("prefetched_bytes").unwrap_or_default()),
    )
}

fn append(dir: &Path, record: &Value) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(FILE))?;
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let mut text = String::new();
    // What is no text is not ours, and gone with this.
    let _ = (&mut *file).take(MAX_BYTES).read_to_string(&mut text);
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = lines[lines.len().saturating_sub(KEPT - 1)..].join("\n");
    if !kept.is_empty() {
        kept.push('\n');
    }
    kept.push_str(&record.to_string());
    kept.push('\n');
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(kept.as_bytes())
}

/// A restore in a line for people.
pub(crate) fn line(record: &Value) -> String {
    let id = text(record, "id").unwrap_or_default();
    match text(record, "failed") {
        Some(reason) => format!("{id}: killed: {reason}\n"),
        None => format!("{id}: {}\n", sentence(record)),
    }
}

/// The records of the last restores, the oldest first.
///
/// # Errors
/// They can't be read.
pub(crate) fn all() -> io::Result<Vec<Value>> {
    read(Path::new(DIR))
}

fn read(dir: &Path) -> io::Result<Vec<Value>> {
    let mut text = String::new();
    match File::open(dir.join(FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        file => {
            file?.take(MAX_BYTES).read_to_string(&mut text)?;
        }
    }
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = dir.path().join("cedana");
        assert!(read(&home).expect("none").is_empty());
        for number in 0..KEPT + 10 {
            append(&home, &json!({"id": number.to_string()})).expect("append");
        }
        let records = read(&home).expect("read");
        assert_eq!(records.len(), KEPT);
        assert_eq!(records[0]["id"], "10");
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(home.join(FILE)).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn people_can_read_it() {
        let record = json!({
            "id": "c", "running_us": 123_456, "complete_us": 2_000_000, "failed": null,
            "lazy_bytes": 1 << 30, "faults": 17, "fault_mean_us": 400, "fault_p99_us": 1900,
            "prefetched_bytes": 1 << 30,
        });
        let line = line(&record);
        assert!(
            line.starts_with("c: restored lazily: running after 123.5 ms"),
            "{line}"
        );
        assert!(
            line.contains("complete after 2.00 s") && line.contains("p99 1.9 ms"),
            "{line}"
        );
        let killed = self::line(&json!({"id": "c", "failed": "why"}));
        assert_eq!(killed, "c: killed: why\n");
    }
}
