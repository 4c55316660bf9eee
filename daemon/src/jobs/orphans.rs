//! The processes of a job whose supervisor was killed.
//!
//! The kernel kills the program's first process then (parent-death signal), but not its
//! children. Every process of a job has the job's mark in the environment that it was
//! started with, so they are found there. A user can put the mark of another job only on
//! processes of their own.

use std::fs;
use std::os::fd::AsFd;

use cedana_contract::pid::Pid;
use cedana_contract::pidfd;

use crate::job::bytes::Bytes;
use crate::job::spec::Spec;

/// The variable with the mark.
pub(super) const MARK: &str = "CEDANA_JOB";

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

/// Kills all processes with the mark. Returns their number.
pub(super) fn kill(mark: &Bytes) -> usize {
    let entry = [MARK.as_bytes(), b"=", &mark.0].concat();
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let found = pids().filter(|pid| kill_if_marked(*pid, &entry)).count();
        killed += found;
        if found == 0 {
            break;
        }
    }
    killed
}

fn kill_if_marked(pid: Pid, entry: &[u8]) -> bool {
    // The descriptor first: the number may mean another process afterwards.
    let Ok(process) = pidfd::open(pid) else {
        return false;
    };
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    environment
        .split(|byte| *byte == 0)
        .any(|line| line == entry)
        && pidfd::kill(process.as_fd()).is_ok()
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(kill(&Bytes::from(mark.as_str())) >= 1);
        let status = marked.wait().expect("a status");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(other.try_wait().expect("a status").is_none());
        other.kill().expect("killed");
        other.wait().expect("a status");
    }
}
