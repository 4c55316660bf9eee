//! Jobs that are dumped and restored, as their owner does it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cedana_integration::asked::Asked;
use cedana_integration::daemon::{Daemon, has_ended, runs};
use cedana_integration::folder::Folder;
use cedana_integration::{Pty, command, eventually};

/// The path that a dump has printed last.
fn last_word(said: &str) -> PathBuf {
    PathBuf::from(said.split_whitespace().last().unwrap_or_default())
}

#[test]
fn a_job_is_dumped_and_restored_ten_times() {
    let daemon = Daemon::start("dumped");
    let folder = Folder::new("dumps");
    let mut job = Asked::start(&daemon, "example_job", &[]);
    let pid = daemon.pid_of("example_job");
    for round in 1..=10 {
        // As the original's README has it.
        let said = daemon.ok(&["client", "dump", "job", "example_job", "-d", &folder.text()]);
        let archive = last_word(&said);
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        assert!(
            name.starts_with("example_job_2") && name.ends_with(".tar"),
            "{said}"
        );
        let file = fs::metadata(&archive).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((file.uid(), file.mode() & 0o7777), (0, 0o600));
        has_ended(pid);
        let ended = daemon.job_is("example_job", "checkpointed");
        assert_eq!(ended["checkpoints"]["local"], round);
        let refused = daemon.cedana(&["kill", "example_job"]).refused();
        assert!(
            refused.contains("cedana restore job example_job"),
            "{refused}"
        );
        daemon.ok(&["client", "restore", "job", "example_job"]);
        assert_eq!(daemon.pid_of("example_job"), pid);
        job.answers();
    }
    assert_eq!(folder.names().len(), 10, "{:?}", folder.names());
    let listed = daemon.ok(&["checkpoints", "example_job"]);
    assert_eq!(listed.lines().count(), 11, "{listed}");
    let shown = daemon.ok(&["ps"]);
    assert!(shown.contains("10"), "{shown}");
    daemon.ok(&["kill", "example_job"]);
    assert_eq!(daemon.cedana(&["wait", "example_job"]).code, 128 + 15);
    has_ended(pid);
}

#[test]
fn a_job_that_runs_on_can_come_back_later_or_beside_itself() {
    let daemon = Daemon::start("dumped");
    let mut job = Asked::start(&daemon, "job", &[]);
    job.answers();
    // Without -d it is the daemon's own directory.
    let said = daemon.ok(&["dump", "job", "job", "--leave-running", "--name", "mine"]);
    let archive = last_word(&said);
    assert!(
        archive.starts_with(daemon.path("state/checkpoints/0")),
        "{said}"
    );
    assert!(said.contains("stood still for"), "{said}");
    let mut copy = job.copy("copy");
    job.answers();
    job.answers();
    // Its process ID is taken, so the copy is in a PID namespace of its own.
    let path = archive.display().to_string();
    daemon.ok(&["restore", "process", "-p", &path, "-i", "copy"]);
    copy.answers();
    job.answers();
    assert_ne!(daemon.pid_of("copy"), daemon.pid_of("job"));
    daemon.ok(&["kill", "copy"]);
    assert_eq!(daemon.cedana(&["wait", "copy"]).code, 128 + 15);
    job.answers();
    // A job that has been killed comes back as it was at its newest checkpoint.
    daemon.ok(&["kill", "-s", "KILL", "job"]);
    daemon.job_is("job", "ended");
    daemon.ok(&["restore", "job", "job"]);
    let running = daemon.cedana(&["restore", "job", "job"]).refused();
    assert!(running.contains("is running"), "{running}");
    daemon.ok(&["job", "delete", "--force", "job"]);
    assert!(
        !archive.exists(),
        "the daemon's own checkpoints go with the job"
    );
}

#[test]
fn checkpoints_that_are_deleted_at_once_do_not_come_back() {
    let daemon = Daemon::start("dumped");
    let mut job = Asked::start(&daemon, "job", &[]);
    for _ in 0..6 {
        daemon.ok(&["dump", "job", "job", "--leave-running"]);
    }
    let listed = daemon.ok(&["checkpoints", "job"]);
    let numbers: Vec<String> = listed
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    assert_eq!(numbers.len(), 6, "{listed}");
    let deletes = numbers.iter().take(5).map(|number| {
        let mut delete = daemon.command(&["checkpoint", "delete", number]);
        delete.spawn().unwrap_or_else(|e| panic!("{e}"))
    });
    for mut delete in deletes.collect::<Vec<_>>() {
        assert!(delete.wait().is_ok_and(|status| status.success()));
    }
    daemon.ok(&["dump", "job", "job", "--leave-running"]);
    let listed = daemon.ok(&["checkpoints", "job"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(!listed.contains("missing"), "{listed}");
    daemon.ok(&["dump", "job", "job"]);
    daemon.ok(&["restore", "job", "job"]);
    job.answers();
}

#[test]
fn a_restart_policy_does_not_restart_what_a_checkpoint_has_ended() {
    let daemon = Daemon::start("dumped");
    let mut job = Asked::start(&daemon, "job", &["--restart", "always"]);
    let pid = daemon.pid_of("job");
    daemon.ok(&["dump", "job", "job"]);
    daemon.job_is("job", "checkpointed");
    has_ended(pid);
    daemon.ok(&["restore", "job", "job"]);
    job.answers();
    // The policy still holds.
    daemon.ok(&["kill", "-s", "USR2", "job"]);
    eventually("the program is started again", || {
        let job = daemon.job("job");
        match job["restarts"].as_i64() {
            Some(1) if job["state"] == "running" => Ok(()),
            _ => Err(job.to_string()),
        }
    });
}

#[test]
fn a_shell_on_a_terminal_comes_back_on_another_one() {
    let daemon = Daemon::start("dumped");
    daemon.ok(&["exec", "-t", "shell", "--", "bash", "--norc", "-i"]);
    daemon.writes("shell", "#");
    let mut terminal = Pty::start(&mut daemon.command(&["attach", "shell"]));
    terminal.type_line("number=41; echo is $((number + 1))");
    terminal.expect("is 42");
    terminal.prompts();
    // Detached: the dump is of the shell alone, and the client is not part of it.
    terminal.press(b"\x10\x11");
    assert_eq!(terminal.exit_code(), 0);
    for round in 0..3 {
        daemon.ok(&["dump", "job", "shell"]);
        daemon.job_is("shell", "checkpointed");
        let restore = ["restore", "job", "shell", "--attach"];
        let mut terminal = Pty::start(&mut daemon.command(&restore));
        terminal.type_line(&format!("echo round {round} is $((number + 2))"));
        terminal.expect(&format!("round {round} is 43"));
        terminal.prompts();
        // Jobs of the shell work, so it has the terminal as its own.
        terminal.type_line(
            "python3 -c 'import time; print(f\"asleep {6 * 7}\", flush=True); time.sleep(1000)'",
        );
        terminal.expect("asleep 42");
        terminal.press(b"\x03");
        terminal.expect("KeyboardInterrupt");
        terminal.prompts();
        terminal.type_line(&format!("echo still $((number + 3)) {round}"));
        terminal.expect(&format!("still 44 {round}"));
        terminal.prompts();
        terminal.press(b"\x10\x11");
        assert_eq!(terminal.exit_code(), 0);
    }
    let mut terminal = Pty::start(&mut daemon.command(&["attach", "shell"]));
    terminal.type_line("exit 7");
    assert_eq!(terminal.exit_code(), 7);
}

#[test]
fn a_pool_of_processes_keeps_its_shared_memory() {
    let daemon = Daemon::start("dumped");
    let program = r#"
import multiprocessing, os, signal, time
multiprocessing.set_start_method('fork')
memory = multiprocessing.RawArray('Q', 3 << 20)
def work(n):
    while True:
        memory[n] += 1
        time.sleep(0.001)
for n in range(4): multiprocessing.Process(target=work, args=[n], daemon=True).start()
memory[1 << 20] = 4711
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('ready', flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    before = list(memory[:4])
    while any(a == b for a, b in zip(before, memory[:4])): time.sleep(0.001)
    print('all of them work', memory[1 << 20], flush=True)
    memory[1 << 20] += 1
"#;
    daemon.ok(&["exec", "pool", "--", "python3", "-c", program]);
    daemon.writes("pool", "ready");
    for round in 0..3 {
        daemon.ok(&["dump", "job", "pool"]);
        daemon.ok(&["restore", "job", "pool"]);
        let root = daemon.pid_of("pool");
        command("kill", &["-USR1", &root.to_string()]).ok();
        daemon.writes("pool", &format!("all of them work {}", 4711 + round));
    }
}

#[test]
fn redis_keeps_its_data_and_its_client() {
    let daemon = Daemon::start("dumped");
    let folder = Folder::new("redis");
    let redis = ["redis-server", "--port", "7001", "--save", "", "--dir"];
    let place = folder.text();
    let words = [&["exec", "redis", "--"], &redis[..], &[&place]].concat();
    daemon.ok(&words);
    let cli = |words: &[&str]| command("redis-cli", &[&["-p", "7001"], words].concat());
    eventually("redis answers", || {
        let pong = cli(&["ping"]);
        match pong.stdout.trim() {
            "PONG" => Ok(()),
            _ => Err(pong.to_string()),
        }
    });
    let fill = "for i = 1, 20000 do redis.call('set', 'key' .. i, string.rep('x', 1000)) end";
    cli(&["eval", fill, "0"]).ok();
    // A client whose connection is open while redis is away.
    let script = r#"
import socket
with socket.create_connection(('127.0.0.1', 7001)) as redis:
    redis.sendall(b'INCR turns\r\n')
    print(redis.recv(100), flush=True)
    input()
    redis.sendall(b'INCR turns\r\n')
    print(redis.recv(100), flush=True)
"#;
    let mut client = Pty::start(Command::new("python3").args(["-c", script]));
    client.expect(":1");
    daemon.ok(&["dump", "job", "redis"]);
    daemon.job_is("redis", "checkpointed");
    daemon.ok(&["restore", "job", "redis"]);
    assert_eq!(cli(&["dbsize"]).ok().stdout.trim(), "20001");
    client.type_line("");
    client.expect(":2");
    assert_eq!(client.exit_code(), 0);
    daemon.ok(&["dump", "job", "redis"]);
    daemon.ok(&["restore", "job", "redis", "--tcp-close"]);
    assert_eq!(cli(&["get", "turns"]).ok().stdout.trim(), "2");
}

#[test]
fn a_gibibyte_comes_back_lazily_and_is_dumped_again() {
    let daemon = Daemon::start("dumped");
    let mut job = Asked::start(&daemon, "large", &["-e", "SIZE=1024"]);
    daemon.ok(&["dump", "job", "large"]);
    daemon.ok(&["restore", "job", "large"]);
    // Not all of its memory has arrived.
    daemon.ok(&["dump", "job", "large"]);
    daemon.ok(&["restore", "job", "large"]);
    job.answers();
}

/// The tar and nothing else of this machine: another daemon, which knows no such job, where
/// the directory of the first one is gone and the process ID is taken.
#[test]
fn a_job_comes_back_elsewhere_from_the_archive_alone() {
    let folder = Folder::new("moved");
    let (archive, mut pid) = {
        let daemon = Daemon::start("here");
        let mut job = Asked::start(&daemon, "traveller", &[]);
        job.answers();
        let pid = daemon.pid_of("traveller");
        let said = daemon.ok(&["dump", "job", "traveller", "-d", &folder.text()]);
        daemon.ok(&["job", "delete", "traveller"]);
        (last_word(&said), pid)
    };
    let path = archive.display().to_string();
    let daemon = Daemon::start("there");
    for id in ["traveller", "second"] {
        daemon.ok(&["restore", "job", id, "-p", &path]);
        daemon.ok(&["kill", "-s", "USR1", id]);
        daemon.writes(id, "answer 2 ");
        // The second one finds the ID taken by the first.
        assert_eq!(daemon.pid_of(id) == pid, id == "traveller");
        pid = daemon.pid_of("traveller");
    }
    assert!(Path::new(&path).exists());
}

#[test]
fn a_process_that_is_no_job_is_dumped_and_managed() {
    let daemon = Daemon::start("dumped");
    let folder = Folder::new("dumps");
    let script =
        "import os; os.closerange(3, 4096); os.setsid(); os.execvp('sleep', ['sleep', '1000'])";
    let mut sleeper = Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    let pid = sleeper.id().to_string();
    let name = format!("/proc/{pid}/comm");
    eventually("it is sleep", || match fs::read_to_string(&name) {
        Ok(name) if name == "sleep\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    daemon.ok(&["manage", "process", &pid, "--job", "sleeper"]);
    let job = daemon.job_is("sleeper", "running");
    assert_eq!(job["pid"].to_string(), pid);
    assert_eq!(job["command"], "sleep 1000");
    daemon.ok(&[
        "dump",
        "process",
        &pid,
        "-d",
        &folder.text(),
        "--leave-running",
    ]);
    let said = daemon.ok(&["dump", "job", "sleeper", "--leave-running"]);
    assert!(said.contains("/sleeper_2"), "{said}");
    assert_eq!(daemon.job("sleeper")["checkpoints"]["local"], 1);
    daemon.ok(&["freeze", "job", "sleeper"]);
    daemon.ok(&["unfreeze", "job", "sleeper"]);
    let how = daemon.cedana(&["restore", "job", "sleeper"]).refused();
    assert!(how.contains("cedana restore process"), "{how}");
    daemon.ok(&["checkpoint", "delete", "sleeper"]);
    assert_eq!(daemon.job("sleeper")["checkpoints"]["local"], 0);
    let said = daemon.ok(&["dump", "process", &pid, "-d", &folder.text()]);
    let _ = sleeper.wait();
    daemon.job_is("sleeper", "gone");
    let path = last_word(&said).display().to_string();
    let restored = daemon.ok(&["restore", "process", "-p", &path]);
    assert!(
        restored.starts_with("job sleep runs as process"),
        "{restored}"
    );
    assert!(runs(daemon.pid_of("sleep")));
}
