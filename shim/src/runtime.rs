//! The OCI runtime's command line, as the shim uses it.
//!
//! One value per container says which binary, which state root and which
//! global flags. Every verb is one child process, awaited through the reaper
//! and killed by the kernel should the shim die first. Failures carry the
//! runtime's own words: from its JSON log where it wrote one, else from stderr,
//! which is kept in a memfd because a detached child of the runtime could hold
//! a pipe open for ever.
//!
//! Lifecycle verbs go straight to the wrapped runtime (runc or crun), since
//! `cedana-runc` would only pass them on. `checkpoint` and `restore` go to
//! `cedana-runc`, told by its environment which runtime it wraps.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicI32, Ordering},
};

use cedana_contract::{flags, process::die_with_parent, variables};
use log::warn;
use nix::mount::{MntFlags, umount2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use crate::{
    error::{Context, Error, Result, at},
    options::CreateOptions,
    reaper::{ExitStatus, Reaper},
};

/// Where containerd's own shim keeps runc's state, too; `runc --root
/// /run/containerd/runc/<namespace> list` is what people type.
const DEFAULT_ROOT: &str = "/run/containerd/runc";
/// A runtime's log that is larger than this is not its error message.
const LOG_LIMIT: u64 = 1 << 20;

/// How to call the OCI runtime for one container.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    binary: PathBuf,
    root: PathBuf,
    log: PathBuf,
    systemd_cgroup: bool,
}

/// The three standard streams of a command.
pub(crate) enum Io {
    /// Nothing in, nothing out; stderr is kept for the error message.
    Quiet,
    /// This on stdin; stderr kept for the error message.
    Input(OwnedFd),
    /// The container's own: the runtime hands them on to the process it makes.
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

    /// A command that makes the OCI runtime forget the container `id`.
    ///
    /// A restore that was killed can leave the container's root mounted in the
    /// runtime's state (`criu-root`; runc 1.1 to 1.4, `restore`), which runc's
    /// delete then removes, files and all: it is unmounted first.
    pub(crate) fn delete(&self, id: &str) -> Command {
        let left = self.root.join(id).join("criu-root");
        // An error says that it is not there or no mount point, as it should be.
        if umount2(&left, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {
            warn!("unmounted {}, left by a restore", left.display());
        }
        let mut command = self.command("delete");
        command.arg("--force").arg(id);
        command
    }

    /// A command for `checkpoint` or `restore`.
    pub(crate) fn wrapper(&self, verb: &str) -> Command {
        let mut command = self.with_globals(Command::new(wrapper_path()), verb);
        // Whatever name we go by, containerd's own shim is not at work.
        command.env(variables::SHIM, "1");
        // A client may itself name the wrapper as the runtime; the wrapper
        // then takes what its configuration says.
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
    /// [`Error::Runtime`] beginning with `what` when it can't be started or
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

    /// The same, with the command's PID in `known` while it runs, else 0.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(crate) async fn run_with_pid(
        &self,
        reaper: &Reaper,
        mut command: Command,
        io: Io,
        what: &str,
        known: &AtomicI32,
    ) -> Result<()> {
        let log_start = std::fs::metadata(&self.log).map_or(0, |m| m.len());
        let mut kept = None;
        match io {
            Io::Container([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
            }
            Io::Quiet => {
                kept = Some(capture_stderr(&mut command)?);
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            Io::Input(input) => {
                kept = Some(capture_stderr(&mut command)?);
                command.stdin(input).stdout(Stdio::null());
            }
        }
        die_with_parent(&mut command);
        let program = PathBuf::from(command.get_program());
        let spawned = reaper.spawn(&mut command);
        // Closes our copies of the container's ends of the pipes.
        drop(command);
        let (pid, exit) = spawned.map_err(|e| {
            Error::Runtime(format!(
                "{what}: cannot run {program:?}: {e}; install it or set the runtime option BinaryName"
            ))
        })?;
        known.store(pid, Ordering::Relaxed);
        let exit = exit.await;
        known.store(0, Ordering::Relaxed);
        match exit {
            Ok(0) => {
                for warning in logged(&self.log, log_start, "warning") {
                    warn!("{warning}");
                }
                Ok(())
            }
            status => Err(self.failure(what, status.unwrap_or(-1), log_start, kept)),
        }
    }

    /// The runtime's own account of what went wrong.
    fn failure(
        &self,
        what: &str,
        status: ExitStatus,
        log_start: u64,
        stderr: Option<File>,
    ) -> Error {
        let reason = logged(&self.log, log_start, "error")
            .pop()
            .or_else(|| stderr.and_then(captured_text))
            .unwrap_or_else(|| {
                format!(
                    "{} ended with status {status} and said nothing",
                    self.binary.display()
                )
            });
        Error::Runtime(format!("{what}: {reason}"))
    }
}

/// `cedana-runc` beside our own executable, else from PATH.
pub(crate) fn wrapper_path() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name(flags::WRAPPER))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| PathBuf::from(flags::WRAPPER))
}

/// Keeps what a command prints on stderr.
///
/// # Errors
/// No memory for it.
pub(crate) fn capture_stderr(command: &mut Command) -> Result<File> {
    let memory = memfd_create(c"stderr", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?;
    let kept = File::from(memory);
    command.stderr(kept.try_clone().context(|| "duplicate a memfd")?);
    Ok(kept)
}

/// What a command printed, if anything.
pub(crate) fn captured_text(mut stderr: File) -> Option<String> {
    let mut text = String::new();
    stderr.seek(SeekFrom::Start(0)).ok()?;
    stderr.take(LOG_LIMIT).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[derive(Deserialize)]
struct LogLine {
    level: String,
    msg: String,
}

/// The messages of a level in a runtime's JSON log from `start` on.
fn logged(log: &Path, start: u64, level: &str) -> Vec<String> {
    // Most commands write nothing.
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

/// The PID that the runtime wrote.
///
/// # Errors
/// When the file is missing or holds no PID.
pub(crate) fn read_pid(file: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(file).context(|| at("read", file))?;
    text.trim()
        .parse()
        .map_err(|_| Error::Runtime(format!("{} holds {text:?}, not a PID", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_call_logged_is_found() {
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
    fn globals_stand_before_the_verb() {
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
            read_pid(&file)
                .unwrap_err()
                .to_string()
                .contains("init.pid")
        );
        std::fs::write(&file, "1234\n").unwrap();
        assert_eq!(read_pid(&file).unwrap(), 1234);
    }
}
