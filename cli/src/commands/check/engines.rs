//! The runtime, and containerd with its shim.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cedana_contract::flags::WRAPPER;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Machine;
use super::finding::Finding;
use super::program::PATIENCE;
use super::{program, search_path};

/// containerd's socket.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Our shim, whose runtime is io.containerd.cedana.v2.
const SHIM: &str = "containerd-shim-cedana-v2";

/// The remedy of what is part of Cedana.
pub(super) const INSTALL: &str = "run `make install` in the sources of Cedana";

/// runc, our wrapper of it, containerd, and our shim in containerd's PATH.
pub(super) async fn all(machine: &Machine) -> Vec<Finding> {
    let containerd = Containerd::find(machine).await;
    let has_engine = containerd.is_installed() || super::docker::is_installed(machine);
    vec![
        runtime(machine, has_engine).await,
        wrapper(machine, has_engine),
        containerd.finding().await,
        containerd.shim(machine),
    ]
}

async fn runtime(machine: &Machine, has_engine: bool) -> Finding {
    const CHECK: &str = "runtime";
    let name = machine.config().runtime;
    let found = match name.is_absolute() {
        true => Some(name.clone()).filter(|path| path.exists()),
        false => search_path::find(&name.to_string_lossy(), machine.is_root),
    };
    let Some(path) = found else {
        let found = format!("{} is not installed", name.display());
        return match has_engine {
            false => Finding::absent(CHECK, found),
            true => Finding::missing(
                CHECK,
                found,
                "install runc, or name another runtime in the setting `runtime`",
            )
            .needed_for("containers"),
        };
    };
    match program::run(&path, &["--version"], "").await {
        Ok(said) if said.success => {
            Finding::fit(CHECK, format!("{}, {}", said.first_line(), path.display()))
        }
        Ok(said) => Finding::missing(
            CHECK,
            format!("{} --version failed: {}", path.display(), said.reason()),
            "reinstall it",
        ),
        Err(error) => Finding::missing(CHECK, error, "reinstall it"),
    }
    .needed_for("containers")
}

fn wrapper(machine: &Machine, has_engine: bool) -> Finding {
    let finding = match search_path::find(WRAPPER, machine.is_root) {
        Some(path) => Finding::fit(WRAPPER, path.display().to_string()),
        None if has_engine => Finding::missing(WRAPPER, "not in PATH", INSTALL),
        None => return Finding::absent(WRAPPER, "not installed"),
    };
    finding.needed_for("containers, and cedana checkpoint inspect")
}

/// A containerd that runs, or is installed.
enum Containerd {
    /// It answers. With the PID, if this user may connect.
    Runs(Option<i32>),
    /// Its socket is there, and this is why it can't be used.
    Deaf(String),
    /// It has no socket, and its program is this.
    Stopped(PathBuf),
    Absent,
}

impl Containerd {
    async fn find(machine: &Machine) -> Self {
        if Path::new(SOCKET).exists() {
            let connected = timeout(PATIENCE, UnixStream::connect(SOCKET)).await;
            return match connected {
                Ok(Ok(stream)) => Self::Runs(stream.peer_cred().ok().and_then(|peer| peer.pid())),
                Ok(Err(_)) if !machine.is_root => Self::Runs(None),
                Ok(Err(error)) => Self::Deaf(error.to_string()),
                Err(_) => Self::Deaf("it takes no connection".to_owned()),
            };
        }
        match search_path::find("containerd", machine.is_root) {
            Some(path) => Self::Stopped(path),
            None => Self::Absent,
        }
    }

    fn is_installed(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    async fn finding(&self) -> Finding {
        const CHECK: &str = "containerd";
        let program = match self {
            Self::Absent => return Finding::absent(CHECK, "not installed"),
            Self::Deaf(reason) => {
                return Finding::missing(
                    CHECK,
                    format!("does not answer at {SOCKET}: {reason}"),
                    "restart it: systemctl restart containerd",
                )
                .needed_for("containers of containerd");
            }
            Self::Stopped(path) => path.clone(),
            // The program that runs, or else one of that name.
            Self::Runs(pid) => pid
                .map(|pid| PathBuf::from(format!("/proc/{pid}/exe")))
                .filter(|exe| exe.exists())
                .unwrap_or_else(|| "containerd".into()),
        };
        let said = program::run(&program, &["--version"], "").await;
        let version = said.ok().filter(|said| said.success);
        let version = version.map_or_else(String::new, |said| version_in(said.first_line()));
        match self {
            Self::Stopped(path) => Finding::lesser(
                CHECK,
                format!("{version} {} does not run: no {SOCKET}", path.display()).trim_start(),
                "start it: systemctl start containerd",
            ),
            _ => Finding::fit(CHECK, format!("{version} at {SOCKET}").trim_start()),
        }
        .needed_for("containers of containerd")
    }

    /// containerd looks for a shim in its own PATH, and then beside its own program
    /// (core/runtime/v2/shim_manager.go, resolveRuntimePath).
    fn shim(&self, machine: &Machine) -> Finding {
        const CHECK: &str = "containerd-shim";
        let found = match self {
            Self::Absent => return Finding::absent(CHECK, "no containerd to use it"),
            Self::Runs(Some(pid)) if machine.is_root => in_path_of(*pid),
            _ => search_path::find(SHIM, machine.is_root),
        };
        match found {
            Some(path) => Finding::fit(CHECK, path.display().to_string()),
            None => Finding::missing(
                CHECK,
                format!("containerd finds no {SHIM} in its PATH"),
                INSTALL,
            ),
        }
        .needed_for("the runtime io.containerd.cedana.v2")
    }
}

/// The shim that this containerd would start.
fn in_path_of(containerd: i32) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{containerd}/environ")).ok()?;
    let path = path_in(&environment).unwrap_or_default();
    search_path::find_in(&path, SHIM).or_else(|| {
        let program = fs::read_link(format!("/proc/{containerd}/exe")).ok()?;
        search_path::find_in(program.parent()?.as_os_str(), SHIM)
    })
}

/// The value of PATH in an environment, as /proc has it.
fn path_in(environment: &[u8]) -> Option<OsString> {
    let mut entries = environment.split(|byte| *byte == 0);
    let path = entries.find_map(|entry| entry.strip_prefix(b"PATH="))?;
    Some(OsStr::from_bytes(path).to_owned())
}

/// The version in "containerd github.com/containerd/containerd/v2 2.1.4 HASH".
fn version_in(line: &str) -> String {
    let mut words = line.split_whitespace().skip(2);
    let version = words.next().unwrap_or_default();
    version.trim_start_matches('v').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_containerd() {
        let line = "containerd github.com/containerd/containerd/v2 v2.1.4 abc";
        assert_eq!(version_in(line), "2.1.4");
        let debian = "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6";
        assert_eq!(version_in(debian), "1.7.24~ds1");
        assert_eq!(version_in("x"), "");
    }

    #[test]
    fn the_path_of_an_environment() {
        let environment = b"A=1\0MANPATH=/m\0PATH=/a:/b\0";
        assert_eq!(path_in(environment), Some("/a:/b".into()));
        assert_eq!(path_in(b"A=1\0"), None);
    }
}
