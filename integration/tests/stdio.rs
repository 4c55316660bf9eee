//! A container's streams: pipes, terminals, loggers, null I/O.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cedana_integration::{Run, ctr_ok, eventually, unique};

#[test]
fn standard_input_and_its_end_reach_the_program() {
    let run = Run::new("stdin").command(&["cat"]);
    let (container, mut ctr) = run.spawnable(&["--rm"]);
    let mut child = ctr
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{ctr:?}: {error}"));
    let mut stdin = child
        .stdin
        .take()
        .unwrap_or_else(|| unreachable!("it is piped"));
    let mut stdout = child
        .stdout
        .take()
        .unwrap_or_else(|| unreachable!("it is piped"));
    stdin
        .write_all(b"a line\n")
        .unwrap_or_else(|error| panic!("stdin: {error}"));
    let mut echoed = [0; 7];
    stdout
        .read_exact(&mut echoed)
        .unwrap_or_else(|error| panic!("stdout: {error}"));
    assert_eq!(&echoed, b"a line\n");
    // ctr closes the task's input when its own ends, but misses an end before the task
    // has started. So the input ends after the echo.
    drop(stdin);
    // If `cat` does not get the end, the container's drop kills it.
    eventually("`cat` ends", || {
        container.is("STOPPED").map(drop).or_else(|seen| {
            if container.status().is_none() {
                Ok(())
            } else {
                Err(seen)
            }
        })
    });
    assert!(child.wait().is_ok_and(|status| status.success()));
}

#[test]
fn close_io_ends_the_input_of_an_exec() {
    let container = Run::new("close-io").workload(&[]).detach();
    let fifos = Fifos::create(container.out());
    let task = container.task();
    let process = r#"{"args":["cat"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}"#;
    // The shim waits for readers of its output pipes.
    let (mut stdin, mut stdout) = (fifos.open("stdin"), fifos.open("stdout"));
    let _stderr = fifos.open("stderr");
    let opened = task
        .exec("cat", process, fifos.paths())
        .and_then(|()| task.start("cat"));
    opened.unwrap_or_else(|refused| panic!("{refused}"));

    stdin
        .write_all(b"a line\n")
        .unwrap_or_else(|error| panic!("{error}"));
    let mut echoed = [0; 7];
    stdout
        .read_exact(&mut echoed)
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(&echoed, b"a line\n");

    // The shim keeps the pipe open, so that a client can reconnect. `cat` exits when the
    // shim and the client have closed it.
    drop(stdin);
    task.close_stdin("cat")
        .unwrap_or_else(|refused| panic!("{refused}"));
    let exit = task
        .wait("cat")
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(exit.exit_status, 0);
    task.delete("cat")
        .unwrap_or_else(|refused| panic!("{refused}"));
}

#[test]
fn a_terminal_carries_lines_both_ways_and_the_exit_code() {
    let (_container, mut terminal) = Run::new("terminal")
        .command(&["sh", "-c", "tty; read x; echo got $x; exit 6"])
        .on_terminal();
    terminal.expect("/dev/pts/");
    terminal.type_line("something");
    terminal.expect("got something");
    assert_eq!(terminal.exit_code(), 6);
}

#[test]
fn a_resized_terminal_has_its_new_size_inside() {
    let (container, mut terminal) = Run::new("resize").command(&["sh"]).on_terminal();
    eventually("the new size", || {
        // ctr ignores the signal until it has set its handler, so it is sent again.
        terminal.resize(40, 100);
        terminal.type_line("stty size");
        let seen = terminal.seen();
        if seen.contains("40 100") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    eventually("the size of ResizePty", || {
        // ctr may handle an earlier signal late, which sets the other size.
        container
            .task()
            .resize_pty(132, 50)
            .unwrap_or_else(|refused| panic!("{refused}"));
        terminal.type_line("stty size");
        let seen = terminal.seen();
        if seen.contains("50 132") {
            Ok(())
        } else {
            Err(seen)
        }
    });
    terminal.type_line("exit");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn an_exec_can_have_its_own_terminal() {
    let container = Run::new("exec-tty").workload(&[]).detach();
    let mut command = std::process::Command::new("ctr");
    command.args([
        "task",
        "exec",
        "--tty",
        "--exec-id",
        "shell",
        container.id(),
        "sh",
    ]);
    let mut terminal = cedana_integration::Pty::start(&mut command);
    terminal.type_line("tty; exit 8");
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.exit_code(), 8);
    container.report().intact();
}

#[test]
fn null_io_runs_to_the_end() {
    let container = Run::new("null-io")
        .flags(&["--null-io"])
        .command(&["sh", "-c", "seq 1 100000; touch /out/done; exit 2"])
        .detach();
    container.stopped();
    assert!(container.out().join("done").exists());
    assert_eq!(
        container.task().state("").map(|s| s.exit_status).ok(),
        Some(2)
    );
}

#[test]
fn a_file_logger_has_both_streams() {
    let log = Scratch::new("file-log");
    let uri = format!("file://{}", log.0.display());
    let container = Run::new("file-log")
        .flags(&["--log-uri", &uri])
        .command(&["sh", "-c", "echo to out; echo to err >&2"])
        .detach();
    container.stopped();
    eventually("both lines are in the file", || {
        let text = fs::read_to_string(&log.0).map_err(|e| e.to_string())?;
        if text.contains("to out") && text.contains("to err") {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn a_binary_logger_gets_both_streams_and_the_containers_name() {
    // containerd's contract: stdout is descriptor 3, stderr 4, and the logger closes 5
    // when it is ready; the names are in the environment.
    let log = Scratch::new("binary-log");
    let logger = Scratch::new("logger");
    let script = format!(
        "#!/bin/sh\n\
         echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1=$2\" >{log}\n\
         exec 5>&-\n\
         sed -u s/^/out:/ <&3 >>{log} &\n\
         sed -u s/^/err:/ <&4 >>{log} &\n\
         wait\n",
        log = log.0.display()
    );
    fs::write(&logger.0, script)
        .and_then(|()| fs::set_permissions(&logger.0, fs::Permissions::from_mode(0o755)))
        .unwrap_or_else(|error| panic!("the logger: {error}"));
    let uri = format!("binary://{}?mark=yes", logger.0.display());
    let container = Run::new("binary-log")
        .flags(&["--log-uri", &uri])
        .command(&["sh", "-c", "seq 1 50000; echo complaint >&2"])
        .detach();
    container.stopped();
    // Delete ends the logger, which must have got all output before.
    ctr_ok(&["task", "delete", container.id()]);
    let text = eventually("the log is complete", || {
        let text = fs::read_to_string(&log.0).map_err(|e| e.to_string())?;
        let complete = text.contains("out:50000\n") && text.contains("err:complaint\n");
        if complete {
            Ok(text)
        } else {
            Err(format!("{} bytes", text.len()))
        }
    });
    let first = format!("default/{} mark=yes", container.id());
    assert_eq!(text.lines().next(), Some(first.as_str()));
    assert_eq!(
        text.lines().filter(|l| l.starts_with("out:")).count(),
        50_000
    );
}

#[test]
fn a_missing_logger_is_named() {
    let reason = Run::new("no-logger")
        .flags(&["--log-uri", "binary:///no/such/logger"])
        .command(&["true"])
        .fails();
    assert!(reason.contains("/no/such/logger"), "{reason}");
}

/// A path of a file, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(label: &str) -> Self {
        Self(Path::new("/var/tmp").join(unique(label)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Named pipes for the streams of a process.
struct Fifos([PathBuf; 3]);

impl Fifos {
    fn create(directory: &Path) -> Self {
        let create = |name: &str| {
            let path = directory.join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path
        };
        Self(["stdin", "stdout", "stderr"].map(create))
    }

    fn paths(&self) -> [&str; 3] {
        self.0
            .each_ref()
            .map(|path| path.to_str().unwrap_or_else(|| unreachable!("it is ASCII")))
    }

    /// Opens one for both directions, which does not block.
    fn open(&self, name: &str) -> fs::File {
        let path = self.0.iter().find(|p| p.ends_with(name));
        let path = path.unwrap_or_else(|| panic!("no fifo {name}"));
        let file = fs::File::options().read(true).write(true).open(path);
        file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}
