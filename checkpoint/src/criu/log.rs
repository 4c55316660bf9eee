//! CRIU's log, and the one thing in it that matters after a failure.
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
//! The rule: the first reason decides. If its meaning is known it is the cause;
//! if not, it is quoted, and a later error with a known meaning is not given as
//! the cause, because it may be a consequence. A log without a reason is judged
//! by its first report in the same way.
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

/// Lines of one kind: the source file that prints them, and what they contain.
/// The file keeps a text from being taken for the same words elsewhere.
type Lines = (&'static str, &'static str);

/// Errors after which CRIU goes on: features that it asks for, and settings that
/// it can do without. Texts of CRIU 3.17 to 4.2.
const PROBES: [Lines; 12] = [
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

/// Errors that say which step failed, printed by the caller of the function that
/// printed the reason, or in place of it.
const REPORTS: [Lines; 18] = [
    // `dump_one_task`: "Dump files (pid: 42) failed with -1" and its like.
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
    // A child's end, whose own error is the reason.
    ("criu/cr-restore.c", " exited, status="),
    ("criu/cr-restore.c", " killed by signal"),
    // A property of a cgroup that CRIU may be able to do without.
    ("criu/cgroup.c", "Failed writing "),
    ("criu/action-scripts.c", "One of more action scripts failed"),
    ("criu/sk-tcp.c", "Unable to shutdown the socket"),
];

/// Errors of a run that has failed already: of undoing what it did, and its last
/// words.
const CLEANUP: [Lines; 16] = [
    ("criu/cr-dump.c", "Dumping FAILED"),
    ("criu/cr-dump.c", "Pre-dumping FAILED"),
    ("criu/cr-dump.c", "Lazy pages transfer FAILED"),
    ("criu/cr-dump.c", "Can't cure local"),
    ("criu/cr-restore.c", "Restoring FAILED"),
    (
        "criu/cr-restore.c",
        "Killing processes because of failure on restore",
    ),
    // The helper that moves tasks between cgroups has lost its parent.
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

/// What a log says about a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The known cause.
    pub cause: Option<Cause>,
    /// The error that decides, as CRIU wrote it.
    pub error: Option<String>,
    /// The CRIU that wrote the log.
    pub version: Option<Version>,
    /// The process that a dump stopped at, by its PID on the host.
    pub process: Option<u32>,
    /// The process or thread that CRIU could not detach from because there was no
    /// stopped one with this ID (ESRCH): it runs, or it has ended.
    pub lost: Option<u32>,
    /// The watched file that CRIU could not find, by its device and inode as the
    /// kernel writes them in /proc/PID/fdinfo.
    pub watched: Option<(u64, u64)>,
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
    let mut reason = None;
    let mut report = None;
    let mut watched = None;
    let mut process = None;
    let mut lost = None;
    for line in log.lines() {
        let Some(error) = LoggedError::parse(line) else {
            watched = watched_in(line).or(watched);
            continue;
        };
        lost = lost.or_else(|| error.lost());
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
    let decides = reason.or(report);
    Diagnosis {
        cause: decides.as_ref().and_then(|error| Cause::of(error.message)),
        error: decides.map(|error| error.message.chars().take(QUOTE).collect()),
        version: Version::parse(log),
        process,
        lost,
        watched,
    }
}

/// The file in "Handle 0x50:0x18c00c cannot be opened" (criu/fsnotify.c).
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
        let (_, rest) = line.split_once("Error (")?;
        let (place, message) = rest.split_once("): ")?;
        let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
        Some(Self {
            file,
            message: message.trim(),
        })
    }

    /// The ID in "Unable to detach from 42: No such process".
    fn lost(&self) -> Option<u32> {
        let gone = self.message.ends_with(": No such process");
        let id = number_after(self.message, "Unable to detach from ");
        id.filter(|_| gone)
    }

    fn is_of(&self, kind: &[Lines]) -> bool {
        kind.iter()
            .any(|(file, text)| self.file.contains(file) && self.message.contains(text))
    }
}

#[cfg(test)]
mod tests;
