//! Core dumps: a container's memory passes through `cedana-runc`, so it has none. The
//! runtime keeps the caller's limit, since the container inherits it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use crate::stage::{DUMP, Stage, stderr};

/// Runs a command with the greatest limit for core files.
fn with_core_files(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"ulimit -c "$(ulimit -Hc)"; exec "$0" "$@""#])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell
}

/// Whether a process was killed by SIGABRT and left no core dump.
fn aborted_without_a_dump(status: ExitStatus) -> bool {
    assert_eq!(status.signal(), Some(6), "{status}");
    !status.core_dumped()
}

#[test]
fn a_killed_checkpoint_leaves_no_core_dump() {
    let stage = Stage::new(&(DUMP.to_owned() + "kill -ABRT $PPID; exec sleep 1000"));
    let command = stage.command(&["--root", "root", "checkpoint", "--leave-running", "c"]);
    let status = with_core_files(&command).status().expect("run");
    assert!(aborted_without_a_dump(status));
}

#[test]
fn a_killed_page_source_leaves_no_core_dump() {
    let stage = Stage::new("exit 1");
    let (control, theirs) = UnixStream::pair().expect("sockets");
    let (_listener, listener) = UnixStream::pair().expect("sockets");
    let command = stage.command(&["--cedana-page-source"]);
    let mut source = with_core_files(&command)
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(std::os::fd::OwnedFd::from(listener))
        .spawn()
        .expect("spawn");
    // It renames itself before it waits for its first message.
    let name = format!("/proc/{}/comm", source.id());
    while fs::read_to_string(&name).expect("comm") != "cedana-pages\n" {}
    let aborted = Command::new("kill")
        .args(["-ABRT", &source.id().to_string()])
        .status()
        .expect("kill");
    assert!(aborted.success());
    assert!(aborted_without_a_dump(source.wait().expect("wait")));
    drop(control);
}

#[test]
fn the_runtime_keeps_the_callers_limit_of_core_files() {
    let stage = Stage::new(&(DUMP.to_owned() + r#"ulimit -Sc >"$STAGE/limit""#));
    let command = stage.command(&["--root", "root", "checkpoint", "--leave-running", "c"]);
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -Sc 7; exec "$0" "$@""#])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(stage.path("."))
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", stderr(&output));
    let limit = fs::read_to_string(stage.path("limit")).expect("limit");
    assert_eq!(limit, "7\n");
}
