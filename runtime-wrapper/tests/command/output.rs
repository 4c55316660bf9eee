//! What `cedana-runc` writes to its standard streams and to the log.

use std::fs;
use std::io;
use std::process::Stdio;

use crate::stage::{DUMP, Stage, first_line};

/// The writing end of a pipe that nothing reads any more.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().expect("pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_checkpoint_whose_caller_has_closed_stderr_succeeds() {
    let stage = Stage::new(&(DUMP.to_owned() + "echo a warning >&2"));
    let output = stage
        .command(&["--root", "root", "checkpoint", "--leave-running", "c"])
        .stderr(closed())
        .stdout(closed())
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(0), "{:?}", output.status);
    assert!(stage.path("checkpoint/cedana-manifest.json").exists());
}

#[test]
fn the_version_is_no_panic_on_a_closed_stdout() {
    let status = Stage::new("exit 1")
        .command(&["--cedana-version"])
        .stdout(closed())
        .stderr(closed())
        .status()
        .expect("run");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn control_characters_of_a_container_do_not_reach_the_terminal_or_the_log() {
    let name = r"x\033[2J\233\r";
    let stage = Stage::new(&format!(
        r#"[ "$1" = --version ] && exit
printf 'a note on {name}\n' >&2
mkdir -p work
printf '(00.1)      1: Error (criu/files-reg.c:1): Can`t open {name}\n' >work/dump.log
exit 1"#
    ));
    let output = stage.checkpoint();
    assert_eq!(output.status.code(), Some(1));
    let line = first_line(&output);
    assert!(line.contains(r"x\u{1b}[2J"), "{line}");
    let log = fs::read_to_string(stage.path("log.json")).expect("log");
    for text in [String::from_utf8(output.stderr).expect("UTF-8"), log] {
        let is_control = |letter: char| letter.is_control() && letter != '\n';
        assert!(!text.contains(is_control), "{text:?}");
    }
}
