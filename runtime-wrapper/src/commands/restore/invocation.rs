//! The command line of the runtime's restore.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use cedana_checkpoint::criu::RestoreOptions;
use tempfile::TempDir;

use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::ConfigFile;
use crate::oci::runtime::Runtime;

/// A flag of crun's that Podman passes to every runtime (`restore --tcp-close`).
/// For runc, which has none, CRIU's option is in CRIU's configuration.
pub(super) const TCP_CLOSE: &str = "tcp-close";

/// CRIU's working directory. If the caller names none it is not the checkpoint's,
/// which stays unchanged and may be read-only.
pub(super) enum WorkDir {
    Callers(PathBuf),
    Temporary(TempDir),
}

impl WorkDir {
    pub(super) fn new(request: &Request) -> Result<Self, Error> {
        // With lazy pages the caller's own daemon listens in that directory.
        if request.value("work-path").is_some() || request.has("lazy-pages") {
            return Ok(Self::Callers(request.work_path()));
        }
        let dir = tempfile::Builder::new()
            .prefix("cedana-restore-")
            .tempdir()
            .map_err(Error::CriuConfig)?;
        Ok(Self::Temporary(dir))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Callers(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// The runtime's flag, unless the caller gave it.
    fn flag(&self) -> Option<String> {
        match self {
            Self::Callers(_) => None,
            Self::Temporary(dir) => Some(format!("--work-path={}", dir.path().display())),
        }
    }
}

/// The arguments and options of one attempt, for the runtime and CRIU.
pub(super) struct Invocation<'a> {
    pub(super) request: &'a Request,
    pub(super) runtime: &'a Runtime,
    pub(super) work: &'a WorkDir,
    /// The directory to restore from, if it is not the checkpoint's own.
    pub(super) images: Option<&'a Path>,
    /// The socket for the terminal, if it is not the caller's.
    pub(super) console: Option<&'a Path>,
    pub(super) lazy: bool,
    pub(super) options: RestoreOptions,
}

impl Invocation<'_> {
    /// The runtime's command. The file must exist as long as CRIU runs, which reads
    /// it through this process's entry in /proc.
    pub(super) fn command(&self) -> Result<(Command, Option<ConfigFile>), Error> {
        let options = match self.options == RestoreOptions::default() {
            true => None,
            false => Some(
                ConfigFile::new(|inherited| self.options.render(inherited))
                    .map_err(Error::CriuConfig)?,
            ),
        };
        let mut command = self.runtime.command(&self.arguments());
        if let Some(options) = &options {
            let (name, value) = options.variable();
            command.env(name, value);
        }
        Ok((command, options))
    }

    fn arguments(&self) -> Vec<OsString> {
        // The checkpoint was taken with locks and outside sockets allowed. A
        // restore that refused them would make it useless.
        let mut flags = vec!["--file-locks", "--ext-unix-sk"];
        if !self.options.tcp_close {
            flags.push("--tcp-established");
        }
        let work = self.work.flag();
        flags.extend(work.as_deref());
        if self.lazy {
            flags.push("--lazy-pages");
        }
        let values: Vec<(&str, &OsStr)> = [
            ("image-path", self.images),
            ("console-socket", self.console),
        ]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?.as_os_str())))
        .collect();
        let mut arguments = self.request.with_values(&flags, &values);
        // crun never becomes a subreaper and knows no flag against it, which every
        // caller gives that detaches (containerd's shim, Docker).
        if self.request.has("no-subreaper") && self.runtime.is_crun() {
            arguments
                .retain(|argument| argument != "--no-subreaper" && argument != "-no-subreaper");
        }
        if self.request.has(TCP_CLOSE) && !self.runtime.is_crun() {
            arguments.retain(|argument| {
                let name = argument.to_str().unwrap_or_default();
                let name = name.trim_start_matches('-');
                name != TCP_CLOSE && !name.starts_with("tcp-close=")
            });
        }
        arguments
    }
}
