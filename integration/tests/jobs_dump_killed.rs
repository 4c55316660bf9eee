//! What a kill leaves behind in the middle of a dump or a restore of a job: nothing.

use std::fs;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use cedana_integration::asked::Asked;
use cedana_integration::daemon::{Daemon, has_ended, send};
use cedana_integration::eventually;
use cedana_integration::folder::Folder;
use cedana_integration::job::children;

/// Memory that takes CRIU a while, in MiB.
const LARGE: &str = "SIZE=384";

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Daemon,
    Worker,
    Criu,
}

const VICTIMS: [Victim; 4] = [Victim::Client, Victim::Daemon, Victim::Worker, Victim::Criu];

fn child_of(pid: i32, name: &str) -> Option<i32> {
    let all = children(pid.cast_unsigned());
    all.into_iter()
        .map(|(pid, _)| pid)
        .find(|pid| comm(*pid) == name)
}

fn comm(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

/// Waits for the worker of a supervisor, and its CRIU.
#[track_caller]
fn at_work(supervisor: i32) -> (i32, i32) {
    eventually("CRIU works", || {
        let worker = child_of(supervisor, "cedana-worker").ok_or("no worker")?;
        let criu = child_of(worker, "criu").ok_or("no CRIU")?;
        Ok((worker, criu))
    })
}

#[track_caller]
fn begin(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_dump_that_is_killed_leaves_the_job_running_and_nothing_else() {
    let mut daemon = Daemon::start("killed");
    let folder = Folder::new("dumps");
    // The daemon is replaced below, while the job lives on.
    let (digest_of, pid) = {
        let mut job = Asked::start(&daemon, "job", &["-e", LARGE]);
        job.answers();
        (daemon.ok(&["logs", "job"]), daemon.pid_of("job"))
    };
    let digest = digest_of
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    for (round, victim) in VICTIMS.into_iter().enumerate() {
        let supervisor = daemon.supervisor_of("job");
        let mut client = begin(daemon.command(&["dump", "job", "job", "-d", &folder.text()]));
        let (worker, criu) = at_work(supervisor);
        match victim {
            Victim::Client => drop(client.kill()),
            Victim::Daemon => daemon.end(Signal::SIGKILL),
            Victim::Worker => send(worker, Signal::SIGKILL),
            Victim::Criu => send(criu, Signal::SIGKILL),
        }
        let status = client.wait().unwrap_or_else(|e| panic!("{e}"));
        assert!(!status.success(), "{victim:?}: the dump was not ended");
        has_ended(worker);
        has_ended(criu);
        if victim == Victim::Daemon {
            daemon.again();
        }
        assert_eq!(daemon.pid_of("job"), pid, "{victim:?}");
        daemon.ok(&["kill", "-s", "USR1", "job"]);
        daemon.writes("job", &format!("answer {} {digest}", round + 2));
        let left: Vec<_> = folder.names();
        assert!(
            left.iter().all(|name| !name.ends_with(".tar")),
            "{victim:?}: {left:?}"
        );
        assert!(daemon.job("job")["checkpoints"]["newest"].is_null());
    }
    daemon.ok(&["dump", "job", "job", "-d", &folder.text()]);
    assert_eq!(folder.names().len(), 1, "{:?}", folder.names());
    daemon.ok(&["restore", "job", "job"]);
    daemon.ok(&["kill", "-s", "USR1", "job"]);
    daemon.writes("job", &format!("answer 6 {digest}"));
}

#[test]
fn a_restore_that_is_killed_leaves_the_checkpoint_and_can_be_repeated() {
    let mut daemon = Daemon::start("killed");
    let digest = {
        let _job = Asked::start(&daemon, "job", &["-e", LARGE]);
        let said = daemon.ok(&["logs", "job"]);
        said.split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    let pid = daemon.pid_of("job");
    daemon.ok(&["dump", "job", "job"]);
    for victim in VICTIMS {
        let mut restore = daemon.command(&["restore", "job", "job"]);
        restore.env("CEDANA_RESTORE_MODE", "eager");
        let mut client = begin(restore);
        let supervisor = eventually("a supervisor", || {
            let all = cedana_integration::daemon::supervisors(&daemon.path("state"));
            all.first().copied().ok_or_else(|| "none".to_owned())
        });
        let (worker, criu) = at_work(supervisor);
        match victim {
            Victim::Client => drop(client.kill()),
            Victim::Daemon => daemon.end(Signal::SIGKILL),
            Victim::Worker => send(worker, Signal::SIGKILL),
            Victim::Criu => send(criu, Signal::SIGKILL),
        }
        let status = client.wait().unwrap_or_else(|e| panic!("{e}"));
        assert!(!status.success(), "{victim:?}: the restore was not ended");
        has_ended(supervisor);
        has_ended(worker);
        has_ended(criu);
        if victim == Victim::Daemon {
            daemon.again();
        }
        daemon.job_is("job", "checkpointed");
        has_ended(pid);
    }
    daemon.ok(&["restore", "job", "job"]);
    daemon.ok(&["kill", "-s", "USR1", "job"]);
    daemon.writes("job", &format!("answer 1 {digest}"));
}

#[test]
fn a_job_whose_supervisor_is_killed_comes_back_from_its_checkpoint() {
    let daemon = Daemon::start("killed");
    let mut job = Asked::start(&daemon, "job", &["-e", LARGE]);
    job.answers();
    daemon.ok(&["dump", "job", "job", "--leave-running"]);
    let (pid, supervisor) = (daemon.pid_of("job"), daemon.supervisor_of("job"));
    let mut client = begin(daemon.command(&["dump", "job", "job"]));
    let (worker, criu) = at_work(supervisor);
    send(supervisor, Signal::SIGKILL);
    let _ = client.wait();
    for process in [worker, criu, pid] {
        has_ended(process);
    }
    eventually("the job is known to have ended", || {
        let found = daemon.job("job");
        match found["state"].as_str() {
            Some("lost" | "checkpointed") => Ok(()),
            _ => Err(found.to_string()),
        }
    });
    daemon.ok(&["restore", "job", "job"]);
    job.answers();
}
