//! Other programs that are asked.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cedana_contract::process::die_with_parent;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program or an engine may take to answer. `criu check` takes a tenth of a
/// second.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a program has said.
pub(super) struct Said {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Said {
    /// The first line that is not empty.
    pub(super) fn first_line(&self) -> &str {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        lines
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
    }

    /// The line with the reason of a failure: that of an error, or else the last.
    pub(super) fn reason(&self) -> &str {
        let mut lines = self.stderr.lines().chain(self.stdout.lines());
        let error = lines.clone().find(|line| line.contains("rror"));
        error.or(lines.next_back()).unwrap_or_default().trim()
    }
}

/// Runs a program to its end, and gives it a text on stdin.
///
/// # Errors
/// It can't be started, or takes too long; then it is killed.
pub(super) async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Said, String> {
    let failed = |error: std::io::Error| format!("cannot run {}: {error}", program.display());
    let mut command = std::process::Command::new(program);
    command
        .args(arguments.iter().map(OsStr::new))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // With what it starts itself it is one group, which is killed as a whole.
        .process_group(0);
    die_with_parent(&mut command);
    let mut child = Command::from(command).spawn().map_err(failed)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(mut stdin) = child.stdin.take() {
        // Shorter than a pipe. A program that does not read it says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| {
        // A member of the group, which holds the output open, keeps its number taken.
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        format!(
            "{} did not end in {} s",
            program.display(),
            PATIENCE.as_secs()
        )
    })?;
    let output = output.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str) -> Result<Said, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(run(Path::new("/bin/sh"), &["-c", script], input))
    }

    #[test]
    fn a_program_is_given_its_input_and_quoted() {
        let said = sh("cat; echo 'x: Error: no'; echo last >&2; exit 3", "in\n").expect("run");
        assert!(!said.success);
        assert_eq!((said.first_line(), said.reason()), ("in", "x: Error: no"));
        let deaf = sh("exec true", &"x".repeat(1000)).expect("run");
        assert!(deaf.success && deaf.first_line().is_empty());
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named() {
        let error = run(Path::new("/no/such"), &[], "").await.err();
        assert!(error.is_some_and(|text| text.contains("/no/such")));
    }
}
