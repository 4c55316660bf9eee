//! Daemon, supervisor and client of a job are killed; no job, output or exit status is
//! lost, and no program runs on unseen.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use cedana_integration::daemon::{Daemon, has_ended, runs, send, supervisors, with_variable};
use cedana_integration::folder::Folder;
use cedana_integration::{Output, Pty, command, eventually};
use nix::sys::signal::Signal;

/// Counts until the file `stop` exists, then exits with 6.
const COUNT: &str =
    "n=0; while ! [ -e stop ]; do n=$((n+1)); echo count $n; sleep 0.02; done; exit 6";

fn counter(daemon: &Daemon, folder: &Folder, id: &str) -> i32 {
    daemon.ok(&["exec", "-w", &folder.text(), COUNT, id]);
    daemon.writes(id, "count 3\n");
    daemon.pid_of(id)
}

fn stop(folder: &Folder) {
    fs::write(folder.file("stop"), "").expect("written");
}

/// The numbers that a counter has written must have no gap.
fn has_no_gap(log: &str) {
    for (line, n) in log.lines().zip(1..) {
        assert_eq!(line, format!("count {n}"));
    }
}

#[test]
fn jobs_outlive_the_daemon_however_it_ends() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut daemon = Daemon::start("killed");
        let (first, second) = (Folder::new("first"), Folder::new("second"));
        let pid = counter(&daemon, &first, "lasting");
        let ending = counter(&daemon, &second, "ending");
        daemon.end(signal);
        assert!(runs(pid));
        // It ends while there is no daemon.
        stop(&second);
        has_ended(ending);
        daemon.again();
        assert_eq!(daemon.pid_of("lasting"), pid);
        assert_eq!(daemon.job("ending")["exit_code"], 6);
        has_no_gap(&daemon.ok(&["logs", "ending"]));
        stop(&first);
        assert_eq!(daemon.cedana(&["wait", "lasting"]).code, 6);
        has_no_gap(&daemon.ok(&["logs", "lasting"]));
    }
}

#[test]
fn a_restart_policy_needs_no_daemon() {
    let mut daemon = Daemon::start("killed");
    let folder = Folder::new("restarted");
    let script = "echo run; if [ -e second ]; then sleep 1000; fi; touch second; while ! [ -e go ]; do sleep 0.02; done; exit 1";
    daemon.ok(&[
        "exec",
        "--restart",
        "always",
        "-w",
        &folder.text(),
        script,
        "again",
    ]);
    let first = daemon.pid_of("again");
    daemon.end(Signal::SIGKILL);
    fs::write(folder.file("go"), "").expect("written");
    has_ended(first);
    let log = daemon.path("state/jobs/0/again/output.log");
    eventually("the program runs again", || {
        match fs::read_to_string(&log) {
            Ok(text) if text == "run\nrun\n" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    daemon.again();
    let job = daemon.job_is("again", "running");
    assert_eq!(job["restarts"], 1, "{job}");
}

#[test]
fn a_terminal_is_entered_again_after_the_daemon_was_killed() {
    let mut daemon = Daemon::start("killed");
    daemon.ok(&["exec", "-t", "shell", "--", "sh"]);
    let mut first = Pty::start(&mut daemon.command(&["attach", "shell"]));
    first.expect("detach with");
    first.type_line("x=5; echo value $((x + 1))");
    first.expect("value 6");
    daemon.end(Signal::SIGKILL);
    first.expect("jobs go on");
    assert_eq!(first.exit_code(), 125);
    daemon.again();
    let mut second = Pty::start(&mut daemon.command(&["attach", "shell"]));
    second.expect("detach with");
    second.type_line("echo still $x; exit 3");
    second.expect("still 5");
    assert_eq!(second.exit_code(), 3);
}

#[test]
fn a_killed_client_ends_no_job() {
    let daemon = Daemon::start("killed");
    let folder = Folder::new("client");
    let exec = ["exec", "-a", "-w", &folder.text(), COUNT, "attached"].map(str::to_owned);
    let exec: Vec<_> = exec.iter().map(String::as_str).collect();
    let mut client: Child = daemon
        .command(&exec)
        .stdout(Stdio::null())
        .spawn()
        .expect("cedana");
    daemon.job_is("attached", "running");
    daemon.writes("attached", "count 3\n");
    client.kill().expect("killed");
    client.wait().expect("a status");
    assert!(runs(daemon.pid_of("attached")));
    stop(&folder);
    assert_eq!(daemon.cedana(&["wait", "attached"]).code, 6);
}

/// No process has the mark of the job.
#[track_caller]
fn none_is_left(mark: &str) {
    let left = with_variable("CEDANA_JOB", mark);
    assert!(left.is_empty(), "processes of job {mark}: {left:?}");
}

/// A program with a child in a session of its own.
const FAMILY: &str = "setsid sh -c 'echo child; sleep 1000' & echo parent; sleep 1000";

#[test]
fn nothing_of_a_job_runs_on_after_its_supervisor_was_killed() {
    let mut daemon = Daemon::start("killed");
    for without_daemon in [false, true] {
        daemon.ok(&["exec", FAMILY, "family"]);
        daemon.writes("family", "child");
        daemon.writes("family", "parent");
        let (pid, supervisor) = (daemon.pid_of("family"), daemon.supervisor_of("family"));
        if without_daemon {
            daemon.end(Signal::SIGKILL);
        }
        send(supervisor, Signal::SIGKILL);
        has_ended(supervisor);
        if without_daemon {
            daemon.again();
        }
        has_ended(pid);
        daemon.job_is("family", "lost");
        none_is_left("0/family/");
        assert_eq!(daemon.ok(&["logs", "family"]).lines().count(), 2);
        assert_eq!(daemon.cedana(&["wait", "family"]).code, 137);
        assert!(
            daemon
                .cedana(&["kill", "family"])
                .refused()
                .contains("together with its supervisor")
        );
        daemon.ok(&["job", "delete", "family"]);
    }
}

#[test]
fn a_daemon_that_is_killed_while_jobs_start_leaves_none_unseen() {
    let mut daemon = Daemon::start("killed");
    for round in 0..12 {
        let id = format!("started{round}");
        let mut client = daemon.command(&["exec", &id, "--", "sleep", "1000"]);
        let mut client = client
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cedana");
        // Not a wait for something: the kill shall come at another step each time.
        std::thread::sleep(Duration::from_millis(3 * round));
        daemon.end(Signal::SIGKILL);
        client.wait().expect("a status");
        daemon.again();
        let mark = format!("0/{id}/");
        let job = daemon.job(&id);
        match job["state"].as_str() {
            Some("running") => assert!(runs(daemon.pid_of(&id))),
            // Given up before its program ran, or never asked for.
            Some("lost") | None => {
                // A supervisor that came too late exits without its program.
                eventually("no supervisor is left", || {
                    let left: Vec<_> = supervisors(&daemon.path("state"))
                        .into_iter()
                        .filter(|pid| {
                            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                                .unwrap_or_default()
                                .contains(&id)
                        })
                        .collect();
                    if left.is_empty() {
                        Ok(())
                    } else {
                        Err(format!("{left:?}"))
                    }
                });
                none_is_left(&mark);
            }
            _ => panic!("{job}"),
        }
        if !job.is_null() {
            daemon.ok(&["job", "delete", "--force", &id]);
        }
        none_is_left(&mark);
    }
}

#[test]
fn a_client_that_is_killed_while_its_job_starts_leaves_a_whole_job_or_none() {
    let daemon = Daemon::start("killed");
    for round in 0..12 {
        let id = format!("asked{round}");
        let mut client = daemon.command(&["exec", &id, "--", "sleep", "1000"]);
        let mut client = client.stdout(Stdio::null()).spawn().expect("cedana");
        // Not a wait for something: the kill shall come at another step each time.
        std::thread::sleep(Duration::from_millis(2 * round));
        client.kill().expect("killed");
        client.wait().expect("a status");
    }
    eventually("every job runs under its supervisor", || {
        let listed = daemon.ok(&["ps", "-a", "--json"]);
        let running = listed
            .lines()
            .filter(|job| job.contains("\"state\":\"running\""))
            .count();
        let supervisors = supervisors(&daemon.path("state")).len();
        let programs = with_variable("CEDANA_JOB", "0/asked").len();
        match listed.lines().count() == running && supervisors == running && programs == running {
            true => Ok(()),
            false => Err(format!(
                "{listed}{supervisors} supervisors, {programs} programs"
            )),
        }
    });
}

/// Starts a daemon that must fail, with the same directories.
fn another(daemon: &Daemon, replaced: &[(&str, &str)]) -> Output {
    let mut line = daemon.command_line();
    for (option, value) in replaced {
        let at = line
            .iter()
            .position(|word| word == option)
            .expect("an option");
        line[at + 1] = (*value).to_owned();
    }
    let words: Vec<_> = line[1..].iter().map(String::as_str).collect();
    command("timeout", &[&["60", "cedana"], &words[..]].concat())
}

#[test]
fn a_second_daemon_is_refused() {
    let daemon = Daemon::start("killed");
    let holder = format!("(process {})", daemon.pid());
    let refused = another(&daemon, &[]).refused();
    assert!(
        refused.contains("the socket") && refused.contains(&holder),
        "{refused}"
    );
    let refused = another(&daemon, &[("--socket", &daemon.path("other"))]).refused();
    assert!(
        refused.contains("the state directory") && refused.contains(&holder),
        "{refused}"
    );
    daemon.ok(&["daemon", "status"]);
}

#[test]
fn a_damaged_or_newer_database_is_kept_and_its_jobs_are_found_without_it() {
    let mut daemon = Daemon::start("killed");
    let folder = Folder::new("found");
    let pid = counter(&daemon, &folder, "found");
    daemon.end(Signal::SIGTERM);
    let database = daemon.path("state/cedana.db");
    let good = fs::read(&database).expect("a database");
    let newer =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 99')";
    command("python3", &["-c", newer, &database]).ok();
    let before = fs::read(&database).expect("a database");
    let refused = another(&daemon, &[]).refused();
    assert!(
        refused.contains("version 99") && refused.contains("left unchanged"),
        "{refused}"
    );
    assert_eq!(fs::read(&database).expect("a database"), before);

    let mut damaged = good;
    let length = damaged.len();
    damaged[100..length].fill(0x5a);
    fs::write(&database, &damaged).expect("written");
    let refused = another(&daemon, &[]).refused();
    assert!(
        refused.contains("damaged") || refused.contains("malformed"),
        "{refused}"
    );
    assert!(refused.contains("left unchanged"), "{refused}");
    assert_eq!(fs::read(&database).expect("a database"), damaged);

    // As the error says.
    fs::rename(&database, daemon.path("state/aside")).expect("moved");
    daemon.again();
    assert_eq!(daemon.pid_of("found"), pid);
    stop(&folder);
    assert_eq!(daemon.cedana(&["wait", "found"]).code, 6);
    has_no_gap(&daemon.ok(&["logs", "found"]));
}
