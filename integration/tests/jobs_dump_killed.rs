//! What a kill leaves behind in the middle of a dump or a restore of a job: nothing.

use std::fs;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use cedana_integration::asked::Asked;
use cedana_integration::daemon::{Daemon, has_ended, send, supervisors};
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

/// The processes of a dump or a restore that is under way.
#[derive(Debug, Clone, Copy)]
struct AtWork {
    supervisor: i32,
    worker: i32,
    criu: i32,
}

/// Waits for the worker of a supervisor, and its CRIU. `None` if the client has ended
/// before: then the machine was too busy to see them.
#[track_caller]
fn at_work(client: &mut Child, daemon: &Daemon) -> Option<AtWork> {
    let state = daemon.path("state");
    loop {
        let found = supervisors(&state).into_iter().find_map(|supervisor| {
            let worker = child_of(supervisor, "cedana-worker")?;
            let criu = child_of(worker, "criu")?;
            Some(AtWork {
                supervisor,
                worker,
                criu,
            })
        });
        if found.is_some() || client.try_wait().is_ok_and(|ended| ended.is_some()) {
            return found;
        }
        std::thread::yield_now();
    }
}

/// Kills one of them, and waits for the end of all.
#[track_caller]
fn kill(victim: Victim, at_work: AtWork, mut client: Child, daemon: &mut Daemon) {
    match victim {
        Victim::Client => drop(client.kill()),
        Victim::Daemon => daemon.end(Signal::SIGKILL),
        Victim::Worker => send(at_work.worker, Signal::SIGKILL),
        Victim::Criu => send(at_work.criu, Signal::SIGKILL),
    }
    let status = client.wait().unwrap_or_else(|e| panic!("{e}"));
    assert!(!status.success(), "{victim:?}: it was not ended");
    has_ended(at_work.worker);
    has_ended(at_work.criu);
    if victim == Victim::Daemon {
        daemon.again();
    }
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
        let (client, at_work) = loop {
            let dump = daemon.command(&["dump", "job", "job", "-d", &folder.text()]);
            let mut client = begin(dump);
            if let Some(found) = at_work(&mut client, &daemon) {
                break (client, found);
            }
            daemon.ok(&["restore", "job", "job"]);
            daemon.ok(&["checkpoint", "delete", "job"]);
        };
        kill(victim, at_work, client, &mut daemon);
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
        let (client, at_work) = loop {
            let mut restore = daemon.command(&["restore", "job", "job"]);
            restore.env("CEDANA_RESTORE_MODE", "eager");
            let mut client = begin(restore);
            if let Some(found) = at_work(&mut client, &daemon) {
                break (client, found);
            }
            daemon.ok(&["dump", "job", "job"]);
        };
        kill(victim, at_work, client, &mut daemon);
        has_ended(at_work.supervisor);
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
    let pid = daemon.pid_of("job");
    let (mut client, at_work) = loop {
        let mut client = begin(daemon.command(&["dump", "job", "job"]));
        if let Some(found) = at_work(&mut client, &daemon) {
            break (client, found);
        }
        daemon.ok(&["restore", "job", "job"]);
    };
    send(at_work.supervisor, Signal::SIGKILL);
    let _ = client.wait();
    for process in [at_work.worker, at_work.criu, pid] {
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
