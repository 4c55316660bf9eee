//! The processes that a program leaves behind. The supervisor is their subreaper
//! (prctl(2)), so each of them becomes its child when its own parent ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cedana_api::time::now_micros;
use cedana_contract::flags::PAGE_SOURCE;
use nix::errno::Errno;
use nix::sys::time::TimeValLike;
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::sys;

/// Whether a process is the page source of a restored job, which ends by itself, and cleans
/// up, when the job has ended.
pub(crate) fn is_page_source(pid: i32) -> bool {
    is_helper(pid, PAGE_SOURCE)
}

/// Whether a process is the supervisor of a job.
pub(crate) fn is_supervisor(pid: i32) -> bool {
    is_helper(pid, super::FLAG)
}

/// Whether a process is one of the daemon's helpers, of this version or of another one: it
/// is root's, so a user's program can't pass for it.
fn is_helper(pid: i32, flag: &str) -> bool {
    let path = PathBuf::from(format!("/proc/{pid}"));
    let words = fs::read(path.join("cmdline")).unwrap_or_default();
    let first = words.split(|byte| *byte == 0).nth(1);
    let is_root = fs::metadata(&path).is_ok_and(|process| process.uid() == 0);
    is_root && first == Some(flag.as_bytes())
}

/// Kills all children of this process but page sources. Their children become ours, so the
/// caller repeats this until there is nothing left to reap.
pub(super) fn kill_children() {
    for pid in children().filter(|pid| !is_page_source(*pid)) {
        // Our children stay zombies until we reap them, so the PID is still theirs.
        let _ = sys::kill(pid, libc::SIGKILL);
    }
}

/// Kills and reaps all that this process has left behind.
pub(super) fn clear() {
    loop {
        for pid in children() {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        if waitpid(None::<Pid>, None) == Err(Errno::ECHILD) {
            return;
        }
    }
}

/// A child of this name.
pub(super) fn child_named(name: &str) -> Option<i32> {
    children().find(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    })
}

fn children() -> impl Iterator<Item = i32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = Stat::parse(&fs::read(entry.path().join("stat")).ok()?)?;
        (stat.parent == own).then_some(pid)
    })
}

/// What a line of /proc/PID/stat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State: `Z` for a zombie.
    pub state: u8,
    /// Parent's PID.
    pub parent: u32,
    /// Session.
    pub session: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

impl Stat {
    /// When the process was started, in microseconds since 1970.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let uptime =
            clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.num_microseconds());
        let started = i64::try_from(self.started).unwrap_or(0);
        now_micros() - (uptime - started.saturating_mul(1_000_000 / ticks))
    }

    /// Parses the line. The name of the program is in parentheses and may hold any byte.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        // Field 22; the session was field 6.
        let started = fields.nth(15)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            session,
            started,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let line = b"12 (a) R 1 (b) S 7 12 13 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n";
        let stat = Stat::parse(line).expect("a line");
        let expected = Stat {
            state: b'S',
            parent: 7,
            session: 13,
            started: 4711,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse(b"12 (sh"), None);
    }

    #[test]
    fn the_kernel_writes_such_lines() {
        let own = fs::read("/proc/self/stat").expect("a line");
        let stat = Stat::parse(&own).expect("a line");
        assert_eq!(stat.parent, nix::unistd::getppid().as_raw().cast_unsigned());
    }
}
