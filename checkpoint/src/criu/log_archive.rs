//! Copies of CRIU's logs after failures.
//!
//! Clients delete the directory that CRIU logs to as soon as a command has failed. So
//! a copy goes to the log directory, and the error message names it. It is readable by
//! root alone, because a log names the container's files, processes and addresses.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::host::prune::prune;
use crate::output::file_name::file_name;
use crate::output::timestamp;

/// The most that is kept of one log, from its end, since the failure is there. With
/// the default of a hundred logs the directory has at most 400 MiB.
const MAX: u64 = 4 << 20;

/// The place of CRIU's log, shown as the end of an error message.
#[derive(Debug)]
pub enum LogNote {
    /// A copy, by its path.
    Kept(PathBuf),
    /// No copy could be made.
    NotKept {
        /// The log directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// There is no log.
    None,
}

impl fmt::Display for LogNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(path) => write!(f, " (CRIU's log: {})", path.display()),
            Self::NotKept { path, why } => {
                write!(
                    f,
                    " (CRIU's log could not be kept in {}: {why})",
                    path.display()
                )
            }
            Self::None => Ok(()),
        }
    }
}

/// Copies `log` into `dir` and removes the oldest beyond `keep`.
pub fn archive(dir: &Path, keep: usize, id: &str, verb: &str, log: &Path) -> LogNote {
    if keep == 0 || !log.exists() {
        return LogNote::None;
    }
    match copy(dir, id, verb, log) {
        Ok(path) => {
            // An error here must not hide the failure's cause.
            let _ = prune(dir, keep, is_archived);
            LogNote::Kept(path)
        }
        Err(error) => LogNote::NotKept {
            path: dir.to_owned(),
            why: error.to_string(),
        },
    }
}

fn copy(dir: &Path, id: &str, verb: &str, log: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let mut from = File::open(log)?;
    let length = from.metadata()?.len();
    from.seek(SeekFrom::Start(length.saturating_sub(MAX)))?;
    let stamp = timestamp::compact(OffsetDateTime::now_utc());
    let id = file_name(id);
    for again in 0..100 {
        let suffix = if again == 0 {
            String::new()
        } else {
            format!("-{again}")
        };
        let path = dir.join(format!("{id}-{verb}-{stamp}{suffix}.log"));
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(mut to) => {
                io::copy(&mut from.take(MAX), &mut to)?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether a name ends in `-VERB-20260102T030405.678Z`, an optional `-2`, and `.log`.
/// The directory may hold other programs' logs.
fn is_archived(name: &str) -> bool {
    let stamped = |verb: &str| {
        let (_, rest) = name.strip_suffix(".log")?.rsplit_once(verb)?;
        let (stamp, again) = rest.split_once('Z')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let shape = stamp.len() == "20260102T030405.678".len()
            && digits(&stamp.replacen(['T', '.'], "", 2));
        (shape && (again.is_empty() || again.strip_prefix('-').is_some_and(digits))).then_some(())
    };
    stamped("-checkpoint-")
        .or_else(|| stamped("-restore-"))
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn copies_are_private_and_limited_in_number() {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = dir.path().join("logs");
        let log = dir.path().join("dump.log");
        fs::write(&log, "Error").expect("write");
        for _ in 0..4 {
            let LogNote::Kept(path) = archive(&logs, 3, "c", "checkpoint", &log) else {
                panic!("not kept");
            };
            assert_eq!(fs::read_to_string(&path).expect("read"), "Error");
            let mode = |path: &Path| fs::metadata(path).expect("meta").permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&logs)), (0o600, 0o700));
        }
        fs::write(logs.join("notes.log"), "").expect("write");
        archive(&logs, 3, "c", "restore", &log);
        assert_eq!(fs::read_dir(&logs).expect("dir").count(), 4);
    }

    #[test]
    fn a_copy_stays_in_its_directory() {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = dir.path().join("logs");
        let log = dir.path().join("dump.log");
        fs::write(&log, "Error").expect("write");
        for id in ["../../c", "/tmp/c", "..", "", &"c".repeat(300)] {
            let LogNote::Kept(path) = archive(&logs, 9, id, "checkpoint", &log) else {
                panic!("not kept: {id}");
            };
            assert_eq!(path.parent(), Some(&*logs), "{id}");
            assert!(path.is_file(), "{id}");
        }
    }

    #[test]
    fn missing_logs_are_not_kept_and_long_ones_are_cut() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("dump.log");
        assert!(matches!(
            archive(dir.path(), 3, "c", "restore", &log),
            LogNote::None
        ));
        fs::write(&log, vec![b'x'; 5 << 20]).expect("write");
        assert!(matches!(
            archive(dir.path(), 0, "c", "restore", &log),
            LogNote::None
        ));
        let LogNote::Kept(path) = archive(dir.path(), 1, "c", "restore", &log) else {
            panic!("not kept");
        };
        assert_eq!(fs::metadata(path).expect("meta").len(), MAX);
    }
}
