//! Jobs of the command `cedana`, as their owner uses them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use cedana_integration::daemon::{Daemon, has_ended};
use cedana_integration::folder::Folder;
use cedana_integration::{Pty, command, descriptors_of};

#[test]
fn a_job_is_started_listed_and_read_and_its_exit_status_kept() {
    let daemon = Daemon::start("jobs");
    let folder = Folder::new("example");
    let script = "import time, sys\nprint('counting', flush=True)\ntime.sleep(1000)\n";
    fs::write(folder.file("example.py"), script).expect("written");
    // As the original's README has it.
    let mut exec = daemon.command(&["exec", "python3 example.py", "example_job"]);
    assert!(
        exec.current_dir(&folder.0)
            .status()
            .expect("cedana")
            .success()
    );
    daemon.writes("example_job", "counting");
    let pid = daemon.pid_of("example_job");
    let listed = daemon.ok(&["ps"]);
    let line = listed.lines().nth(1).unwrap_or_default();
    let cells: Vec<_> = line.split_whitespace().take(5).collect();
    assert_eq!(
        cells,
        [
            "example_job",
            "root",
            "process",
            &pid.to_string(),
            "running"
        ],
        "{listed}"
    );
    for prefixed in [["client", "ps"], ["job", "list"]] {
        assert_eq!(daemon.ok(&prefixed).lines().count(), 2);
    }
    assert!(
        daemon
            .cedana(&["job", "delete", "example_job"])
            .refused()
            .contains("cedana kill")
    );
    daemon.ok(&["kill", "example_job"]);
    assert_eq!(daemon.cedana(&["wait", "example_job"]).code, 128 + 15);
    has_ended(pid);
    assert!(
        daemon
            .cedana(&["kill", "example_job"])
            .refused()
            .contains("ended by signal 15")
    );
    assert_eq!(
        daemon.ok(&["ps"]).lines().count(),
        1,
        "a job that has ended is listed with -a"
    );
    assert_eq!(daemon.ok(&["logs", "example_job"]), "counting");
    daemon.ok(&["job", "delete", "example_job"]);
    assert!(
        daemon
            .cedana(&["logs", "example_job"])
            .refused()
            .contains("no job example_job")
    );
}

#[test]
fn an_attached_command_exits_like_the_program() {
    let daemon = Daemon::start("jobs");
    let ran = daemon.cedana(&["exec", "-a", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\nerr\n"), "{ran}");
    let killed = daemon.cedana(&["exec", "-a", "kill -KILL $$", "killed"]);
    assert_eq!(killed.code, 137, "{killed}");
    let many = daemon.cedana(&["exec", "-a", "--", "seq", "200000"]).ok();
    assert!(many.stdout.ends_with("\n199999\n200000\n"));
    assert_eq!(many.stdout.len(), command("seq", &["200000"]).stdout.len());
}

#[test]
fn a_job_that_cannot_start_leaves_nothing() {
    let daemon = Daemon::start("jobs");
    for (arguments, reason) in [
        (
            &["exec", "bad", "--", "/no/such/program"][..],
            "cannot start /no/such/program: No such file",
        ),
        (&["exec", "bad", "--", "nosuchprogram"], "searched in PATH="),
        (
            &["exec", "-w", "/no/such", "true", "bad"],
            "working directory /no/such",
        ),
        (
            &["exec", "--log", "/no/such/log", "true", "bad"],
            "log file /no/such/log",
        ),
        (
            &["exec", "--log", "/dev/null", "true", "bad"],
            "not a regular file",
        ),
    ] {
        let refused = daemon.cedana(arguments).refused();
        assert!(
            refused.contains("job bad was not started") && refused.contains(reason),
            "{refused}"
        );
    }
    let long = "x".repeat(65);
    for id in ["../up", "a/b", "..", ".", "", &long, "a b"] {
        let refused = daemon.cedana(&["exec", "true", id]).refused();
        assert!(refused.contains("not a valid job ID"), "{refused}");
    }
    assert!(
        daemon
            .cedana(&["exec"])
            .refused()
            .contains("there is no command")
    );
    assert_eq!(daemon.ok(&["ps", "-a"]).lines().count(), 1);
    let left = fs::read_dir(daemon.path("state/jobs/0")).map(Iterator::count);
    assert_eq!(
        left.unwrap_or(0),
        0,
        "directories of jobs that were never started"
    );

    daemon.ok(&["exec", "sleep 1000", "twice"]);
    assert!(
        daemon
            .cedana(&["exec", "true", "twice"])
            .refused()
            .contains("job twice already")
    );
    daemon.ok(&["job", "delete", "--force", "twice"]);
    daemon.ok(&["exec", "true", "twice"]);
}

#[test]
fn a_job_has_a_clean_environment_and_what_was_given() {
    let daemon = Daemon::start("jobs");
    let folder = Folder::new("environment");
    let file = folder.file("variables").display().to_string();
    fs::write(&file, "# comment\nFROM_FILE=a b\nBOTH=file\n").expect("written");
    let mut exec = daemon.command(&[
        "exec",
        "-a",
        "-w",
        "/usr",
        "--env-file",
        &file,
        "-e",
        "BOTH=flag",
        "-e",
        "TAKEN",
        "pwd; env",
    ]);
    let ran = exec
        .env("TAKEN", "from here")
        .env("SECRET", "of the caller")
        .output()
        .expect("cedana");
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut lines: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with("CEDANA_JOB=0/"))
        .collect();
    lines.sort_unstable();
    assert_eq!(text.lines().count(), lines.len() + 1, "{text}");
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // PWD is the shell's own.
    let expected = [
        "/usr",
        "BOTH=flag",
        "FROM_FILE=a b",
        "HOME=/root",
        "LOGNAME=root",
        path,
        "PWD=/usr",
        "SHELL=/bin/bash",
        "TAKEN=from here",
        "USER=root",
    ];
    assert_eq!(lines, expected);

    fs::write(&file, "A=1\n\nexport B=2\n").expect("written");
    let refused = daemon
        .cedana(&["exec", "--env-file", &file, "true"])
        .refused();
    assert!(refused.contains(&format!("{file}:3: ")), "{refused}");
    assert!(
        daemon
            .cedana(&["exec", "-e", "NOT_SET", "true"])
            .refused()
            .contains("NOT_SET=VALUE")
    );
}

#[test]
fn a_job_inherits_nothing_that_criu_could_not_restore() {
    let daemon = Daemon::start("jobs");
    daemon.ok(&["exec", "plain", "--", "sleep", "1000"]);
    let pid = daemon.pid_of("plain");
    let output = daemon.path("state/jobs/0/plain/output.log");
    let descriptors = descriptors_of(u32::try_from(pid).expect("a PID"));
    assert_eq!(descriptors, ["/dev/null", output.as_str(), output.as_str()]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a status");
    let fields: Vec<_> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    // Group and session are the program's own, and there is no terminal.
    assert_eq!(fields[2..5], [&*pid.to_string(), &*pid.to_string(), "0"]);
    let signals = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    for set in ["SigBlk", "SigIgn"] {
        assert!(
            signals.contains(&format!("{set}:\t0000000000000000")),
            "{signals}"
        );
    }
}

#[test]
fn what_a_program_leaves_behind_ends_with_the_job() {
    let daemon = Daemon::start("jobs");
    daemon.ok(&[
        "exec",
        "sh -c \"setsid sleep 1111 & (sleep 1112 &) ; sleep 0.1; exit 4\"",
        "family",
    ]);
    assert_eq!(daemon.cedana(&["wait", "family"]).code, 4);
    let left = command("ps", &["ax", "-o", "args"]).ok().stdout;
    assert!(!left.contains("sleep 111"), "{left}");
}

#[test]
fn a_restart_policy_looks_at_the_exit_status_and_kill_ends_it() {
    let daemon = Daemon::start("jobs");
    let folder = Folder::new("restart");
    let once = "if [ -e failed ]; then exit 0; fi; touch failed; exit 1";
    daemon.ok(&[
        "exec",
        "--restart",
        "on-failure",
        "-w",
        &folder.text(),
        once,
        "failing",
    ]);
    assert_eq!(daemon.cedana(&["wait", "failing"]).code, 0);
    assert_eq!(daemon.job("failing")["restarts"], 1);

    daemon.ok(&["exec", "--restart", "always", "echo run", "again"]);
    daemon.writes("again", "run\nrun");
    daemon.job_is("again", "restarting");
    daemon.ok(&["kill", "again"]);
    let job = daemon.job_is("again", "ended");
    assert_eq!(job["exit_code"], 0);

    daemon.ok(&["exec", "--restart", "always", "sleep 1000", "long"]);
    daemon.ok(&["kill", "-s", "KILL", "long"]);
    assert_eq!(daemon.job_is("long", "ended")["exit_signal"], 9);
}

#[test]
fn a_terminal_is_left_and_entered_again() {
    let daemon = Daemon::start("jobs");
    daemon.ok(&["exec", "-t", "-e", "PS1=ready> ", "shell", "--", "sh"]);
    let mut first = Pty::start(&mut daemon.command(&["attach", "shell"]));
    first.expect("detach with Ctrl-P Ctrl-Q");
    first.type_line("x=4; echo value $((x + 1)); tty; stty size");
    first.expect("value 5");
    first.expect("24 80");
    first.resize(30, 100);
    // The client may pass on what is typed before the new size.
    first.type_line("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.01; done; echo re''sized");
    first.expect("resized");
    first.press(b"\x10\x11");
    first.expect("detached; job shell goes on");
    assert_eq!(first.exit_code(), 0);

    let mut second = Pty::start(&mut daemon.command(&["job", "attach", "shell"]));
    second.expect("detach with");
    second.type_line("echo still $x; exit 9");
    second.expect("still 4");
    assert_eq!(second.exit_code(), 9);
    assert_eq!(daemon.job_is("shell", "ended")["exit_code"], 9);
    let log = daemon.ok(&["logs", "shell"]);
    assert!(log.contains("value 5") && log.contains("still 4"), "{log}");
    let refused = daemon.cedana(&["attach", "shell"]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("cedana logs shell"), "{refused}");
}

#[test]
fn keys_of_a_terminal_are_signals_and_large_output_is_whole() {
    let daemon = Daemon::start("jobs");
    daemon.ok(&["exec", "-t", "shell", "--", "sh"]);
    let mut pty = Pty::start(&mut daemon.command(&["attach", "shell"]));
    pty.expect("detach with");
    // A key is for the terminal's foreground process, which says that it is the one.
    pty.type_line("trap 'echo inter''rupted' INT; sh -c 'echo ar\"\"med; exec cat'");
    pty.expect("armed");
    pty.press(b"\x03");
    pty.expect("interrupted");
    pty.type_line("seq 100000; exit 0");
    assert_eq!(pty.exit_code(), 0);
    let log = daemon.ok(&["logs", "shell"]);
    let numbers = log
        .lines()
        .filter_map(|l| l.trim_end().parse::<u32>().ok())
        .count();
    assert_eq!(numbers, 100_000);
}

#[test]
fn output_is_followed_until_the_job_ends() {
    let daemon = Daemon::start("jobs");
    let folder = Folder::new("followed");
    let log = folder.file("own.log").display().to_string();
    let directory = folder.text();
    for (id, options) in [("kept", &[][..]), ("own", &["--log", &log])] {
        let script = "echo one; while ! [ -e go ]; do sleep 0.05; done; echo two; exit 3";
        let exec = [&["exec", "-w", &directory], options, &[script, id]].concat();
        daemon.ok(&exec);
        let mut following = daemon
            .command(&["logs", "-f", id])
            .stdout(Stdio::piped())
            .spawn()
            .expect("cedana");
        let stdout = following.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout)
            .lines()
            .map(|line| line.expect("a line"));
        assert_eq!(lines.next().as_deref(), Some("one"));
        fs::write(folder.file("go"), "").expect("written");
        assert_eq!(lines.collect::<Vec<_>>(), ["two"]);
        assert!(following.wait().expect("a status").success());
        assert_eq!(daemon.ok(&["logs", "-n", "1", id]), "two");
        fs::remove_file(folder.file("go")).expect("removed");
    }
    assert_eq!(fs::read_to_string(&log).expect("a log"), "one\ntwo\n");
    daemon.ok(&["job", "delete", "own"]);
    assert!(
        fs::exists(&log).expect("readable"),
        "the owner's file was removed"
    );
}

#[test]
fn a_watched_list_is_sent_again_after_a_change() {
    let daemon = Daemon::start("jobs");
    daemon.ok(&["exec", "sleep 1000", "first"]);
    let mut watching = daemon
        .command(&["ps", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("cedana");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("\"first\""));
    daemon.ok(&["exec", "sleep 1000", "second"]);
    while !next().contains("\"second\"") {}
    watching.kill().expect("killed");
    watching.wait().expect("a status");
}

#[test]
fn a_user_gets_a_settings_file_behind_sudo_and_keeps_it() {
    let folder = Folder::new("home");
    let home = folder.file("alice");
    command("groupadd", &["--gid", "4101", "alice"]).ok();
    command(
        "useradd",
        &[
            "--uid",
            "4101",
            "--gid",
            "4101",
            "--home-dir",
            &home.display().to_string(),
            "--create-home",
            "alice",
        ],
    )
    .ok();
    let sudo =
        |arguments: &[&str]| command("env", &[&["SUDO_UID=4101", "cedana"], arguments].concat());
    sudo(&["bootstrap"]).ok();
    let file = home.join(".cedana/cedana_config.json");
    let owner = command("stat", &["-c", "%u %g %a", &file.display().to_string()])
        .ok()
        .stdout;
    assert_eq!(owner.trim(), "4101 4101 600");
    assert!(sudo(&["bootstrap"]).refused().contains("--force"));
    let dumps = r#"{"shared_storage": {"dump_storage_dir": "/home/johnAdams/cedana_dumps/"}}"#;
    fs::write(&file, dumps).expect("written");
    let shown = sudo(&["config", "show"]).ok().stdout;
    let line = shown
        .lines()
        .find(|l| l.starts_with("shared_storage.dump_storage_dir"))
        .unwrap_or_default();
    assert!(
        line.contains("/home/johnAdams/cedana_dumps/") && line.contains("cedana_config.json"),
        "{shown}"
    );
    sudo(&["bootstrap", "--force"]).ok();
    assert!(
        !fs::read_to_string(&file)
            .expect("a file")
            .contains("johnAdams")
    );
    fs::write(&file, r#"{"runtime": "/tmp/evil"}"#).expect("written");
    assert!(
        sudo(&["config", "show"])
            .refused()
            .contains("belongs to the node")
    );
    // A link of the user's leads nowhere that the user can't write.
    fs::remove_dir_all(home.join(".cedana")).expect("removed");
    std::os::unix::fs::symlink("/etc", home.join(".cedana")).expect("a link");
    sudo(&["bootstrap"]).refused();
    assert!(!fs::exists("/etc/cedana_config.json").expect("readable"));
}

#[test]
fn without_a_daemon_the_error_says_how_to_start_it() {
    let asked = command("cedana", &["--daemon", "/run/no/such.sock", "ps"]);
    assert_eq!(asked.code, 3, "{asked}");
    assert!(asked.stderr.contains("sudo cedana daemon start"), "{asked}");
}
