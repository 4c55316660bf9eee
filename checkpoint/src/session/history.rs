//! Records of the last lazy restores, a line of JSON for each.
//!
//! They are in `/run/cedana/restores.jsonl`, which root alone can read and a reboot
//! removes. `cedana-runc inspect --restores` shows them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lazy::Metrics;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::messages::Startup;
use crate::output::units;
use crate::output::units::micros;

const DIR: &str = "/run/cedana";
const FILE: &str = "restores.jsonl";

/// The most records that are kept.
const KEPT: usize = 256;

/// More than that many lines have. The rest of a larger file is ignored.
const MAX_BYTES: u64 = 1 << 20;

/// A restore, as a line of the file. Fields are in the order of the JSON's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When it was recorded, in seconds since 1970.
    at: i64,
    /// The time until memory was complete; `None` after a failure.
    complete_us: Option<u64>,
    expected_bytes: u64,
    /// Why the container was killed.
    failed: Option<String>,
    fault_max_us: u64,
    fault_mean_us: u64,
    fault_p99_us: u64,
    faulted_bytes: u64,
    faults: u64,
    /// The container's ID.
    id: String,
    lazy_bytes: u64,
    prefetched_bytes: u64,
    /// The time until CRIU let the processes run; `None` if it did not.
    running_us: Option<u64>,
}

/// Records the times of one restore.
pub(super) struct Recorder {
    id: String,
    begun: Instant,
    /// The time from the start of `cedana-runc restore` to the recorder's.
    before: Duration,
    running: Option<Duration>,
}

impl Recorder {
    pub(super) fn new(startup: &Startup, begun: Instant) -> Self {
        Self {
            id: startup.id.clone(),
            begun,
            before: Duration::from_micros(startup.elapsed_us),
            running: None,
        }
    }

    fn elapsed(&self) -> Duration {
        self.before + self.begun.elapsed()
    }

    /// Notes that CRIU lets the container's processes run.
    pub(super) fn running(&mut self) {
        self.running = Some(self.elapsed());
    }

    /// Records the restore, and returns the line for the log.
    pub(super) fn write(&self, metrics: &Metrics, failed: Option<&str>) -> String {
        let now = self.elapsed();
        let record = Record {
            at: time::OffsetDateTime::now_utc().unix_timestamp(),
            complete_us: failed.is_none().then(|| micros(now)),
            expected_bytes: metrics.expected_bytes,
            failed: failed.map(str::to_owned),
            fault_max_us: micros(metrics.max_fault),
            fault_mean_us: micros(metrics.mean_fault),
            fault_p99_us: micros(metrics.p99_fault),
            faulted_bytes: metrics.faulted_bytes,
            faults: metrics.faults,
            id: self.id.clone(),
            lazy_bytes: metrics.lazy_bytes,
            prefetched_bytes: metrics.prefetched_bytes,
            running_us: self.running.map(micros),
        };
        // A restore that can't be recorded has succeeded all the same.
        let _ = append(Path::new(DIR), &record);
        sentence(&record)
    }
}

/// The times of a restore, for people.
fn sentence(record: &Record) -> String {
    let time = |micros: Option<u64>| match micros {
        Some(micros) => units::duration(micros),
        None => "an unknown time".to_owned(),
    };
    format!(
        "restored lazily: running after {}, memory complete after {} ({}); {} faults, mean {}, p99 {}, {} prefetched",
        time(record.running_us),
        time(record.complete_us),
        units::bytes(record.lazy_bytes),
        record.faults,
        units::duration(record.fault_mean_us),
        units::duration(record.fault_p99_us),
        units::bytes(record.prefetched_bytes),
    )
}

fn append(dir: &Path, record: &Record) -> io::Result<()> {
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
    // A file that is no text is replaced.
    let _ = (&mut *file).take(MAX_BYTES).read_to_string(&mut text);
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = lines[lines.len().saturating_sub(KEPT - 1)..].join("\n");
    if !kept.is_empty() {
        kept.push('\n');
    }
    kept.push_str(&serde_json::to_string(record)?);
    kept.push('\n');
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(kept.as_bytes())
}

/// A restore in a line for people.
pub fn line(record: &Record) -> String {
    match &record.failed {
        Some(reason) => format!("{}: killed: {reason}\n", record.id),
        None => format!("{}: {}\n", record.id, sentence(record)),
    }
}

/// The records of the last restores, the oldest first.
///
/// # Errors
/// The file can't be read.
pub fn all() -> io::Result<Vec<Record>> {
    read(Path::new(DIR))
}

fn read(dir: &Path) -> io::Result<Vec<Record>> {
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
            let record = Record {
                id: number.to_string(),
                ..Record::default()
            };
            append(&home, &record).expect("append");
        }
        let records = read(&home).expect("read");
        assert_eq!(records.len(), KEPT);
        assert_eq!(records[0].id, "10");
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(home.join(FILE)).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn people_can_read_it() {
        let record = Record {
            id: "c".to_owned(),
            running_us: Some(123_456),
            complete_us: Some(2_000_000),
            lazy_bytes: 1 << 30,
            faults: 17,
            fault_mean_us: 400,
            fault_p99_us: 1900,
            prefetched_bytes: 1 << 30,
            ..Record::default()
        };
        let line = line(&record);
        assert!(
            line.starts_with("c: restored lazily: running after 123.5 ms"),
            "{line}"
        );
        assert!(
            line.contains("complete after 2.00 s") && line.contains("p99 1.9 ms"),
            "{line}"
        );
        let killed = self::line(&Record {
            id: "c".to_owned(),
            failed: Some("why".to_owned()),
            ..Record::default()
        });
        assert_eq!(killed, "c: killed: why\n");
    }

    #[test]
    fn every_key_is_written_null_or_not() {
        let text = serde_json::to_string(&Record::default()).expect("JSON");
        assert_eq!(
            text,
            r#"{"at":0,"complete_us":null,"expected_bytes":0,"failed":null,"fault_max_us":0,"fault_mean_us":0,"fault_p99_us":0,"faulted_bytes":0,"faults":0,"id":"","lazy_bytes":0,"prefetched_bytes":0,"running_us":null}"#
        );
    }
}
