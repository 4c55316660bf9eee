//! Runs `ctr` and other programs; a failure shows all of their output.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait::{eventually, stretched};

/// The containerd namespace of the tests and of the testbed's images.
pub const NAMESPACE: &str = "default";
/// The image with one static binary.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";
/// The image with redis, nginx, postgres and python.
pub const WORK: &str = "docker.io/library/work:latest";

/// The time after which a client's command counts as hanging.
const PATIENCE: Duration = Duration::from_secs(180);
/// The exit code of timeout(1) when it had to kill the command.
const TIMED_OUT: i32 = 124;

/// The exit code and the output of a program.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; a signal counts as 128 and its number, as in a shell.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{self}");
        self
    }

    /// The standard error of a program that must have failed.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code != 0, "this should have been refused: {self}");
        self.stderr
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "`{command}` exited with {code}\nstdout: {stdout}\nstderr: {stderr}"
        )
    }
}

/// Runs a program until it exits, without standard input.
#[track_caller]
pub fn command(program: &str, arguments: &[&str]) -> Output {
    finish(Command::new(program).args(arguments))
}

/// Runs `ctr` in the tests' namespace.
#[track_caller]
pub fn ctr(arguments: &[&str]) -> Output {
    finish(&mut ctr_command(arguments))
}

/// Runs `ctr`, which must succeed, and returns its trimmed standard output.
#[track_caller]
pub fn ctr_ok(arguments: &[&str]) -> String {
    ctr(arguments).ok().stdout.trim().to_owned()
}

/// Runs `ctr`, which must fail, and returns its standard error.
#[track_caller]
pub fn ctr_fails(arguments: &[&str]) -> String {
    ctr(arguments).refused()
}

/// Runs a `ctr` that copies a process's streams until they arrive whole, and asserts
/// the exit code and both streams.
///
/// Up to containerd 2.3, ctr closes the streams of `run` and `exec` when the process
/// has exited, even if it has yet to read them (fixed for `exec` in commit 3778cc36f).
#[track_caller]
pub fn prints(code: i32, stdout: &str, stderr: &str, mut run: impl FnMut() -> Output) {
    eventually("all of the output", || {
        let output = run();
        assert_eq!(output.code, code, "{output}");
        let cut = |said: &str, whole: &str| said != whole && whole.starts_with(said);
        if cut(&output.stdout, stdout) || cut(&output.stderr, stderr) {
            return Err(output.to_string());
        }
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            (stdout, stderr)
        );
        Ok(())
    });
}

/// `ctr` in the tests' namespace, as a command.
pub(crate) fn ctr_command(arguments: &[&str]) -> Command {
    crate::testbed();
    let mut command = Command::new("ctr");
    command.args(["--namespace", NAMESPACE]).args(arguments);
    command
}

/// The same command under timeout(1): a client waits for a shim's answer without limit,
/// and a test that hangs prints no message.
fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    let patience = stretched(PATIENCE).as_secs().to_string();
    bounded.args(["--kill-after=5", &patience]);
    bounded.arg(command.get_program()).args(command.get_args());
    bounded.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    if let Some(directory) = command.get_current_dir() {
        bounded.current_dir(directory);
    }
    bounded
}

#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Output {
    use std::os::unix::process::ExitStatusExt;

    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|a| a.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let output = bounded(command)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("`{line}` did not start: {error}"));
    assert!(
        output.status.code() != Some(TIMED_OUT),
        "`{line}` still ran after {:?}",
        stretched(PATIENCE)
    );
    Output {
        command: line,
        code: output
            .status
            .code()
            .or_else(|| output.status.signal().map(|s| 128 + s))
            .unwrap_or_else(|| unreachable!("ended neither by exit nor by signal")),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
