//! The processes of a job whose supervisor was killed.
//!
//! Every process of a job has the job's mark in the environment that it was started with.
//! Some programs overwrite that (setproctitle), so the session of the first process counts,
//! too, if its process ID still means the process that the supervisor had started. A user
//! can put the mark of another job only on processes of their own.

use std::fs;
use std::os::fd::AsFd;

use cedana_contract::pid::Pid;
use cedana_contract::pidfd;

use crate::job::bytes::Bytes;
use crate::job::spec::Spec;
use crate::supervisor::{Stat, is_supervisor};

/// The variable with the mark.
pub(super) const MARK: &str = "CEDANA_JOB";

/// The difference between the start of a process and the time that its supervisor has
/// noted, in microseconds. Within that time the kernel uses no process ID twice.
const SLACK: u64 = 2_000_000;

/// The most ancestors that are looked at.
const MAX_DEPTH: usize = 1000;

/// The rounds in which processes that fork meanwhile are looked for again.
const ROUNDS: usize = 20;

/// The mark of a job: its owner, its ID, and when it was created.
pub(super) fn mark(spec: &Spec) -> Bytes {
    let Spec {
        id,
        credentials,
        created,
        ..
    } = spec;
    Bytes::from(format!("{}/{id}/{created}", credentials.uid).as_str())
}

/// Kills all processes with the mark, and those in the session of the first process,
/// which was started at about this time (microseconds since 1970). Returns their number.
pub(super) fn kill(mark: &Bytes, first: Option<(i32, i64)>) -> usize {
    let session = first.and_then(|(pid, started)| is_first(pid, started).then_some(pid));
    let entry = [MARK.as_bytes(), b"=", &mark.0].concat();
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let found = pids()
            .filter(|pid| kill_if_its(*pid, &entry, session))
            .count();
        killed += found;
        if found == 0 {
            break;
        }
    }
    killed
}

fn kill_if_its(pid: Pid, entry: &[u8], session: Option<i32>) -> bool {
    // The descriptor first: the number may mean another process afterwards.
    let Ok(process) = pidfd::open(pid) else {
        return false;
    };
    let in_session = session.is_some() && stat(pid.as_raw()).map(|stat| stat.session) == session;
    let marked = || {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|line| line == entry)
    };
    // A job that was restored from another's checkpoint has that one's mark.
    if has_supervisor(pid) {
        return false;
    }
    (in_session || marked()) && pidfd::kill(process.as_fd()).is_ok()
}

/// Whether a process descends from a supervisor, so that its job is not lost.
fn has_supervisor(pid: Pid) -> bool {
    let mut pid = pid.as_raw();
    // No tree is deeper than that; parents may change meanwhile.
    for _ in 0..MAX_DEPTH {
        match stat(pid).map(|stat| stat.parent.cast_signed()) {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
        if is_supervisor(pid) {
            return true;
        }
    }
    false
}

/// Whether a process was started at that time, and leads its session.
fn is_first(pid: i32, started: i64) -> bool {
    let Some(stat) = stat(pid) else { return false };
    stat.session == pid && stat.started_at().abs_diff(started) < SLACK
}

fn stat(pid: i32) -> Option<Stat> {
    // A zombie is dead already.
    Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?).filter(|stat| stat.state != b'Z')
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_api::time::now_micros;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn only_processes_with_the_mark_are_killed() {
        let start = |mark: &str| {
            let mut command = Command::new("sleep");
            command.arg("60").env(MARK, mark).spawn().expect("sleep")
        };
        let mark = format!("1/test/{}", std::process::id());
        let mut marked = start(&mark);
        let mut other = start(&format!("{mark}0"));
        assert!(kill(&Bytes::from(mark.as_str()), None) >= 1);
        let status = marked.wait().expect("a status");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(other.try_wait().expect("a status").is_none());
        other.kill().expect("killed");
        other.wait().expect("a status");
    }

    #[test]
    fn the_first_process_is_known_by_its_start() {
        let mut command = Command::new("setsid");
        let mut first = command
            .args(["--wait", "sleep", "60"])
            .spawn()
            .expect("sleep");
        let pid = first.id().cast_signed();
        let now = now_micros();
        assert!(!is_first(pid, now - 3_600_000_000));
        while stat(pid).is_some_and(|stat| stat.session != pid) {
            std::thread::yield_now();
        }
        assert!(is_first(pid, now));
        assert!(kill(&Bytes::from("none"), Some((pid, now))) >= 1);
        assert_eq!(
            first.wait().expect("a status").signal(),
            Some(libc::SIGKILL)
        );
    }
}
