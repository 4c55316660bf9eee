//! Runs the commands of the OCI runtime.
//!
//! One [`Runtime`] per container holds the binary, the state root and the global
//! flags. Every verb is one child process, awaited through the reaper and killed by
//! the kernel if the shim exits first. An error contains the runtime's own message,
//! from its JSON log or else from stderr. stderr is kept in a memfd, because a
//! detached child of the runtime could hold a pipe open for ever.
//!
//! Lifecycle verbs go straight to the wrapped runtime (runc or crun), since
//! `cedana-runc` would only pass them on. `checkpoint` and `restore` go to
//! `cedana-runc`, whose environment names the wrapped runtime.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicI32, Ordering},
};

use cedana_contract::{flags, pid::Pid, process::die_with_parent, variables};
use log::warn;
use nix::mount::{MntFlags, umount2};
use serde::Deserialize;

use crate::{
    error::{Context, Error, Result, at},
    options::CreateOptions,
    own_thread::on_new_thread,
    reaper::{ExitStatus, Reaper},
    stderr,
};

/// The default state root. containerd's own shim uses the same one, so
/// `runc --root /run/containerd/runc/<namespace> list` works with both.
const DEFAULT_ROOT: &str = "/run/containerd/runc";
/// The most that is read of a runtime's log. An error message is far shorter.
const LOG_LIMIT: u64 = 1 << 20;

/// The OCI runtime of one container, with its global flags.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    binary: PathBuf,
    root: PathBuf,
    log: PathBuf,
    systemd_cgroup: bool,
}

/// The three standard streams of a command.
pub(crate) enum Io {
    /// Null stdin and stdout; stderr is kept for the error message.
    Quiet,
    /// This stdin and a null stdout; stderr is kept for the error message.
    Input(OwnedFd),
    /// The streams of the process that the runtime creates.
    Container([Stdio; 3]),
}

impl Runtime {
    /// The runtime that `options` ask for, or else `default`, for a container
    /// whose bundle is `bundle`.
    pub(crate) fn new(
        options: &CreateOptions,
        default: &Path,
        namespace: &str,
        bundle: &Path,
    ) -> Self {
        let or = |value: &str, default: &Path| match value {
            "" => default.to_path_buf(),
            value => PathBuf::from(value),
        };
        Self {
            binary: or(&options.binary_name, default),
            root: or(&options.root, Path::new(DEFAULT_ROOT)).join(namespace),
            log: bundle.join("log.json"),
            systemd_cgroup: options.systemd_cgroup,
        }
    }

    /// The wrapped binary.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command for a lifecycle verb, with the global flags before it.
    pub(crate) fn command(&self, verb: &str) -> Command {
        self.with_globals(Command::new(&self.binary), verb)
    }

    /// Unmounts what must not be mounted during [`Self::delete`]: a restore that was
    /// killed can leave the container's root mounted in the runtime's state
    /// (`criu-root`; runc 1.1 to 1.4, `restore`), and runc's delete would remove the
    /// files in the root.
    pub(crate) fn unmount_left_root(&self, id: &str) {
        let left = self.root.join(id).join("criu-root");
        // An error means that the directory is missing or no mount point, which is
        // the normal case.
        if umount2(&left, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {
            warn!("unmounted {}, left by a restore", left.display());
        }
    }

    /// A command that deletes the container `id` from the OCI runtime.
    pub(crate) fn delete(&self, id: &str) -> Command {
        let mut command = self.command("delete");
        command.arg("--force").arg(id);
        command
    }

    /// A command for `checkpoint` or `restore`.
    pub(crate) fn wrapper(&self, verb: &str) -> Command {
        let mut command = self.with_globals(Command::new(wrapper_path()), verb);
        // Tells the wrapper that its caller is not containerd's own shim, whatever
        // the shim's file name.
        command.env(variables::SHIM, "1");
        // A client may name the wrapper itself as the runtime. The wrapper then uses
        // the runtime of its configuration.
        if self.binary.file_name() != Some(flags::WRAPPER.as_ref()) {
            command.env("CEDANA_RUNTIME", &self.binary);
        }
        command
    }

    fn with_globals(&self, mut command: Command, verb: &str) -> Command {
        command.arg("--root").arg(&self.root);
        command.arg("--log").arg(&self.log);
        command.args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`Error::Runtime`] beginning with `what` when the command can't be started or
    /// does not exit with 0.
    pub(crate) async fn run(
        &self,
        reaper: &Reaper,
        command: Command,
        io: Io,
        what: &str,
    ) -> Result<()> {
        self.run_with_pid(reaper, command, io, what, &AtomicI32::new(0))
            .await
    }

    /// Runs a command like [`Self::run`], and keeps the PID in `known` while the
    /// command runs, else 0.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub(crate) async fn run_with_pid(
        &self,
        reaper: &Reaper,
        mut command: Command,
        io: Io,
        what: &str,
        known: &AtomicI32,
    ) -> Result<()> {
        let log = self.log.clone();
        let log_start =
            on_new_thread(move || Ok(std::fs::metadata(&log).map_or(0, |m| m.len()))).await?;
        let mut kept = None;
        match io {
            Io::Container([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
            }
            Io::Quiet => {
                kept = Some(stderr::capture(&mut command)?);
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            Io::Input(input) => {
                kept = Some(stderr::capture(&mut command)?);
                command.stdin(input).stdout(Stdio::null());
            }
        }
        die_with_parent(&mut command);
        let program = PathBuf::from(command.get_program());
        let spawned = reaper.spawn(&mut command);
        // Closes the shim's copies of the container's pipe ends.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| {
            Error::Runtime(format!(
                "{what}: cannot run {program:?}: {e}; install it or set the runtime option BinaryName"
            ))
        })?;
        known.store(pid.as_raw(), Ordering::Relaxed);
        let exit = exit.await;
        known.store(0, Ordering::Relaxed);
        match exit {
            Ok(0) => {
                for warning in self.logged(log_start, "warning").await? {
                    warn!("{warning}");
                }
                Ok(())
            }
            status => {
                let errors = self.logged(log_start, "error").await?;
                Err(self.failure(what, status.unwrap_or(-1), errors, kept))
            }
        }
    }

    /// The messages of a level that a command has logged from `start` on.
    async fn logged(&self, start: u64, level: &'static str) -> Result<Vec<String>> {
        let log = self.log.clone();
        on_new_thread(move || Ok(logged(&log, start, level))).await
    }

    /// The error of a failed command, with the runtime's own message.
    fn failure(
        &self,
        what: &str,
        status: ExitStatus,
        mut errors: Vec<String>,
        stderr: Option<File>,
    ) -> Error {
        let reason = errors
            .pop()
            .or_else(|| stderr.and_then(stderr::text))
            .unwrap_or_else(|| {
                format!(
                    "{} exited with status {status} and no message",
                    self.binary.display()
                )
            });
        Error::Runtime(format!("{what}: {reason}"))
    }
}

/// The path of `cedana-runc`: beside the shim's executable, else from PATH.
pub(crate) fn wrapper_path() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name(flags::WRAPPER))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| PathBuf::from(flags::WRAPPER))
}

#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// The messages of a level in a runtime's JSON log from `start` on.
fn logged(log: &Path, start: u64, level: &str) -> Vec<String> {
    // Most commands log nothing.
    if std::fs::metadata(log).map_or(0, |m| m.len()) <= start {
        return Vec::new();
    }
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.take(LOG_LIMIT).read_to_string(&mut text)
    });
    if let Err(e) = read {
        warn!("{}: {e}", at("read", log));
    }
    text.lines()
        .filter_map(|line| serde_json::from_str::<LogLine>(line).ok())
        .filter(|line| line.level == level)
        .map(|line| line.msg.trim().to_owned())
        .collect()
}

/// Reads the PID file that the runtime wrote.
///
/// # Errors
/// When the file is missing or holds no PID.
pub(crate) async fn read_pid(file: PathBuf) -> Result<Pid> {
    on_new_thread(move || read_pid_now(&file)).await
}

/// Reads a PID file like [`read_pid`], but on the calling thread.
///
/// # Errors
/// Those of [`read_pid`].
pub(crate) fn read_pid_now(file: &Path) -> Result<Pid> {
    let text = std::fs::read_to_string(file).context(|| at("read", file))?;
    text.trim()
        .parse()
        .map_err(|_| Error::Runtime(format!("{} holds {text:?}, not a PID", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_this_call_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        let old = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"t\"}\n";
        let new = concat!(
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n",
            "{\"level\":\"error\",\"msg\":\" the reason\\n\",\"time\":\"t\"}\n",
            "{\"level\":\"warning\",\"msg\":\"later\",\"time\":\"t\"}\nnot json\n"
        );
        std::fs::write(&log, format!("{old}{new}")).unwrap();
        let start = old.len() as u64;
        assert_eq!(logged(&log, start, "error"), ["first", "the reason"]);
        assert_eq!(logged(&log, start, "warning"), ["later"]);
        assert!(logged(&log, start + new.len() as u64, "error").is_empty());
        assert!(logged(Path::new("/nonexistent"), 0, "error").is_empty());
    }

    #[test]
    fn global_flags_precede_the_verb() {
        let options = CreateOptions {
            systemd_cgroup: true,
            ..CreateOptions::default()
        };
        let runtime = Runtime::new(&options, Path::new("runc"), "k8s.io", Path::new("/b"));
        let command = runtime.command("kill");
        let args: Vec<_> = command.get_args().collect();
        assert_eq!(
            args,
            [
                "--root",
                "/run/containerd/runc/k8s.io",
                "--log",
                "/b/log.json",
                "--log-format",
                "json",
                "--systemd-cgroup",
                "kill"
            ]
        );
    }

    #[test]
    fn a_pid_file_without_a_pid_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("init.pid");
        std::fs::write(&file, "12 34").unwrap();
        assert!(
            read_pid_now(&file)
                .unwrap_err()
                .to_string()
                .contains("init.pid")
        );
        std::fs::write(&file, "1234\n").unwrap();
        assert_eq!(i32::from(read_pid_now(&file).unwrap()), 1234);
    }
}
