//! The processes that a program leaves behind. The supervisor is their subreaper
//! (prctl(2)), so each of them becomes its child when its own parent ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cedana_contract::flags::PAGE_SOURCE;

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

/// Kills all children of this process. Their children become ours, so the caller repeats
/// this until there is nothing left to reap.
pub(super) fn kill_children() {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read(entry.path().join("stat")) else {
            continue;
        };
        if Stat::parse(&stat).is_some_and(|stat| stat.parent == own) && !is_page_source(pid) {
            // Our children stay zombies until we reap them, so the PID is still theirs.
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
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
