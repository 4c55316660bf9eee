//! Diagnosis of a failed run of CRIU from its log.
//!
//! A log line is `(00.012345)     42: Error (criu/sk-inet.c:200): inet: text`.
//! A failing CRIU writes several errors, and not all of them are reasons:
//!
//! | kind | example | counts |
//! |---|---|---|
//! | probe ([`PROBES`]) | a feature that this kernel or container lacks | never: CRIU goes on |
//! | reason | "inet: Connected TCP socket ..." | the first one decides |
//! | report ([`REPORTS`]) | "Dump files (pid: 42) failed with -1" | if no reason was logged |
//! | cleanup ([`CLEANUP`]) | "Dumping FAILED." | never: the run has failed already |
//!
//! The first reason decides. A known one is the cause. An unknown one is quoted:
//! a later error with a known meaning is not the cause, because it may be a
//! consequence. In a log without a reason the first report decides in the same way.
//!
//! The names of a container's files and processes are in the log, and a name can be any
//! sentence. So a text counts only in CRIU's own place: right after the prefix that
//! CRIU writes (criu/log.c, `print_ts` and `log_init`), up to the line's end. CRIU
//! prints names with their line ends, so a name can still imitate a line. A success
//! therefore needs more than the log ([`succeeded`]).
//!
//! A log grows with the container's processes and files. CRIU stops at its first
//! real error, so only the end of the log is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::{Cause, Version};

/// The bytes at a log's end that are read. The errors of a failed run are within the
/// last few hundred lines; 4 MiB are about forty thousand.
const TAIL: u64 = 4 << 20;

/// The bytes at its beginning that are read, for the version line.
const HEAD: u64 = 4 << 10;

/// Length limit for the quotation of an unknown error, in characters.
const QUOTE: usize = 300;

/// A kind of error line: the source file that prints it, and words in it. Other
/// files may print the same words with another meaning.
type ErrorLine = (&'static str, &'static str);

/// Errors after which CRIU goes on: optional features and settings. Texts of CRIU
/// 3.17 to 4.2.
const PROBES: [ErrorLine; 12] = [
    // Missing CAP_SYS_RESOURCE.
    ("criu/util.c", "Can't setup RLIMIT_NOFILE for self"),
    // No /dev/net/tun.
    ("criu/tun.c", "Unable to create tun"),
    ("criu/tun.c", "Can't check tun support"),
    // A warning since 3.18.
    ("criu/kerndat.c", "Can't create nftables"),
    // The cache of probes in /run/criu.kdat.
    ("criu/kerndat.c", "Couldn't save "),
    ("criu/kerndat.c", "failed to open /dev/null"),
    ("criu/netfilter.c", "failed to open /dev/null"),
    ("criu/log.c", "Reading kernel version failed"),
    ("criu/cr-restore.c", "Can't restore cur > max"),
    ("criu/cr-restore.c", "failed to suspend seccomp"),
    (
        "criu/cr-restore.c",
        "Restore original /proc/self/loginuid failed",
    ),
    (
        "criu/pie/restorer.c",
        "Failed to restore of SO_REUSEADDR on socket",
    ),
];

/// Errors that name the step that failed. The caller of a failed function prints
/// them, after or in place of the reason.
const REPORTS: [ErrorLine; 18] = [
    // `dump_one_task`: "Dump files (pid: 42) failed with -1" and similar ones.
    ("criu/cr-dump.c", "(pid: "),
    ("criu/cr-dump.c", "Can't dump threads"),
    ("criu/cr-dump.c", "Can't dump thread for pid"),
    ("criu/proc_parse.c", "'s mapfile link "),
    ("criu/mem.c", "Can't dump page with parasite"),
    ("criu/namespaces.c", "Can't make "),
    ("compel/src/lib/infect.c", "remote_mprotect failed"),
    ("compel/src/lib/infect.c", "si_code="),
    ("criu/parasite-syscall.c", "si_code="),
    ("criu/files.c", "Unable to open fd="),
    ("criu/pie/restorer.c", "Restorer fail"),
    // Programs that CRIU runs: iptables-restore, tar, action scripts.
    ("criu/util.c", "exited, status="),
    ("criu/util.c", "killed by signal"),
    // A child has ended. The child's own error is the reason.
    ("criu/cr-restore.c", " exited, status="),
    ("criu/cr-restore.c", " killed by signal"),
    // A property of a cgroup, which may be optional.
    ("criu/cgroup.c", "Failed writing "),
    ("criu/action-scripts.c", "One of more action scripts failed"),
    ("criu/sk-tcp.c", "Unable to shutdown the socket"),
];

/// Errors of a run that has failed already, from its cleanup and its last lines.
const CLEANUP: [ErrorLine; 16] = [
    ("criu/cr-dump.c", "Dumping FAILED"),
    ("criu/cr-dump.c", "Pre-dumping FAILED"),
    ("criu/cr-dump.c", "Lazy pages transfer FAILED"),
    ("criu/cr-dump.c", "Can't cure local"),
    ("criu/cr-restore.c", "Restoring FAILED"),
    (
        "criu/cr-restore.c",
        "Killing processes because of failure on restore",
    ),
    // CRIU, the parent of the helper that moves tasks between cgroups, has exited.
    ("criu/cgroup.c", "cgroupd: recv req error"),
    ("criu/namespaces.c", "uns: recv req error"),
    ("criu/cgroup.c", "Unable to umount "),
    ("criu/cgroup.c", "Unable to remove "),
    ("criu/sk-tcp.c", "Failed to unlock TCP connection"),
    ("criu/seize.c", "Unable to detach from"),
    ("compel/src/lib/infect.c", "Unable to detach from"),
    ("criu/mount.c", "Unable to remove "),
    ("criu/mount.c", "Can't remove the directory"),
    ("criu/mount.c", "Can't umount forced mount"),
];

/// The diagnosis of a failure from its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The cause, `None` if it is unknown.
    pub cause: Option<Cause>,
    /// The deciding error in CRIU's words, `None` if the log has no error.
    pub error: Option<String>,
    /// Version of the CRIU that wrote the log.
    pub version: Option<Version>,
    /// PID on the host of the process at which a dump failed.
    pub process: Option<u32>,
    /// PID or TID that CRIU could not detach from, since no stopped process had it
    /// (ESRCH): the process runs, or it has ended.
    pub undetached: Option<u32>,
    /// Device and inode of the watched file that CRIU could not find, in the numbers
    /// of /proc/PID/fdinfo.
    pub watched: Option<(u64, u64)>,
}

impl Diagnosis {
    /// One sentence for the user, `None` if the log has no error.
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

/// Whether CRIU failed for a reason other than the end of its connection to the page
/// source (criu/uffd.c).
#[must_use]
pub fn diagnosed_own_reason(found: &Diagnosis) -> bool {
    let error = found.error.as_deref();
    found.cause.is_some() || error.is_some_and(|error| !error.starts_with("uffd: "))
}

/// Diagnoses the log at `path`.
///
/// # Errors
/// The file can't be read.
pub fn diagnose(path: &Path) -> io::Result<Diagnosis> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head)?;
    let mut diagnosis = diagnose_text(&end_of(&mut file)?);
    diagnosis.version = Version::parse(&String::from_utf8_lossy(&head));
    Ok(diagnosis)
}

/// Diagnoses a log, or the end of one, in memory.
#[must_use]
pub fn diagnose_text(log: &str) -> Diagnosis {
    let mut reason = None;
    let mut report = None;
    let mut watched = None;
    let mut process = None;
    let mut undetached = None;
    for line in log.lines() {
        let Some(error) = LoggedError::parse(line) else {
            watched = watched_in(line).or(watched);
            continue;
        };
        undetached = undetached.or_else(|| error.undetached());
        if error.is_of(&PROBES) || error.is_of(&CLEANUP) {
            continue;
        }
        if error.is_of(&REPORTS) {
            report = report.or(Some(error));
            process = process.or_else(|| number_after(error.message, "(pid: "));
            continue;
        }
        if reason.is_some() {
            continue;
        }
        reason = Some(error);
    }
    let deciding = reason.or(report);
    Diagnosis {
        cause: deciding.as_ref().and_then(|error| Cause::of(error.message)),
        error: deciding.map(|error| error.message.chars().take(QUOTE).collect()),
        version: Version::parse(log),
        process,
        undetached,
        watched,
    }
}

/// CRIU's last line of a dump or a restore that succeeded (criu/cr-dump.c,
/// criu/cr-restore.c).
const SUCCESS: [&str; 2] = [
    "Dumping finished successfully",
    "Restore finished successfully. Tasks resumed.",
];

/// CRIU's last error of one that failed.
const FAILURE: [ErrorLine; 2] = [
    ("criu/cr-dump.c", "Dumping FAILED"),
    ("criu/cr-restore.c", "Restoring FAILED"),
];

/// Whether the log at `path` says that the dump or restore succeeded. A name in the
/// log can imitate that line, and CRIU may be killed after it. So the caller needs
/// another sign, too: the runtime's status, CRIU's post-dump script, or
/// `inventory.img`, which CRIU writes when all tasks are dumped.
///
/// # Errors
/// The file can't be read.
pub fn succeeded(path: &Path) -> io::Result<bool> {
    Ok(text_succeeded(&end_of(&mut File::open(path)?)?))
}

/// Like [`succeeded`], for a log, or the end of one, in memory.
#[must_use]
pub fn text_succeeded(log: &str) -> bool {
    let verdict = log.lines().rev().find_map(|line| {
        if message(line).is_some_and(|message| SUCCESS.contains(&message)) {
            return Some(true);
        }
        let failed = LoggedError::parse(line).is_some_and(|error| error.is_of(&FAILURE));
        failed.then_some(false)
    });
    verdict == Some(true)
}

/// The end of a log.
fn end_of(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

/// The message of a line: what follows CRIU's prefix, which is a time stamp and, during
/// a restore, the origin `pie` and the PID of the task.
///
/// ```text
/// (00.012345)     42: Error (criu/sk-inet.c:200): inet: text
/// (00.012345) pie: 42: Error (criu/pie/restorer.c:1): text
/// ```
fn message(line: &str) -> Option<&str> {
    let (stamp, rest) = line.strip_prefix('(')?.split_once(')')?;
    let is_stamp = !stamp.is_empty() && stamp.chars().all(|c| c.is_ascii_digit() || c == '.');
    let rest = rest.strip_prefix(' ').filter(|_| is_stamp)?;
    let rest = rest.strip_prefix("pie: ").unwrap_or(rest);
    let number = rest.trim_start_matches(' ');
    let after_pid = number.trim_start_matches(|c: char| c.is_ascii_digit());
    match after_pid.strip_prefix(": ") {
        Some(message) if after_pid.len() < number.len() => Some(message),
        _ => Some(rest),
    }
}

/// Device and inode in "Handle 0x50:0x18c00c cannot be opened" (criu/fsnotify.c).
fn watched_in(line: &str) -> Option<(u64, u64)> {
    let (_, handle) = line.split_once("Handle 0x")?;
    let (handle, _) = handle.split_once(" cannot be opened")?;
    let (device, inode) = handle.split_once(":0x")?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(device)?, number(inode)?))
}

/// The number that follows a text.
fn number_after(message: &str, text: &str) -> Option<u32> {
    let (_, rest) = message.split_once(text)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A line of CRIU's error level.
#[derive(Debug, Clone, Copy)]
struct LoggedError<'a> {
    /// The source file that prints it.
    file: &'a str,
    message: &'a str,
}

impl<'a> LoggedError<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let rest = message(line)?.strip_prefix("Error (")?;
        let (place, message) = rest.split_once("): ")?;
        let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
        Some(Self {
            file,
            message: message.trim(),
        })
    }

    /// The ID in "Unable to detach from 42: No such process".
    fn undetached(&self) -> Option<u32> {
        let is_missing = self.message.ends_with(": No such process");
        let id = number_after(self.message, "Unable to detach from ");
        id.filter(|_| is_missing)
    }

    fn is_of(&self, kind: &[ErrorLine]) -> bool {
        kind.iter()
            .any(|(file, text)| self.file.contains(file) && self.message.contains(text))
    }
}

#[cfg(test)]
mod tests;
