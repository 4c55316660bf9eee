//! What a command of checkpoints is about, and the settings that go with it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cedana_api::v1;
use cedana_api::v1::subject::What;
use cedana_config::{Config, Source};

use super::{config, job_ref};
use crate::args::{Compression, ContainerdName, ContainerdPlace, DumpOptions, RuncName, Subject};
use crate::error::{Error, Result};
use crate::output::to_stderr;

/// What a command is about, as the daemon takes it.
///
/// # Errors
/// An unknown user.
pub(crate) fn of(subject: Subject) -> Result<v1::Subject> {
    Ok(match subject {
        Subject::Job(job) => of_what(What::Job(job_ref(&job)?)),
        Subject::Process(process) => of_what(What::Process(process.pid)),
        Subject::Runc(container) => runc(container)?,
        Subject::Containerd(container) => containerd(container),
    })
}

pub(crate) fn of_what(what: What) -> v1::Subject {
    v1::Subject { what: Some(what) }
}

pub(crate) fn runc(name: RuncName) -> Result<v1::Subject> {
    let id = name.container.or(name.id).unwrap_or_default();
    let root = optional(name.root.as_deref())?;
    Ok(of_what(What::Runc(v1::RuncContainer { id, root })))
}

pub(crate) fn containerd(name: ContainerdName) -> v1::Subject {
    of_what(What::Containerd(containerd_container(name)))
}

pub(crate) fn containerd_container(name: ContainerdName) -> v1::ContainerdContainer {
    let ContainerdPlace {
        namespace,
        containerd,
    } = name.place;
    v1::ContainerdContainer {
        id: name.container.or(name.container_id).unwrap_or_default(),
        namespace,
        address: containerd.into_os_string().into_vec(),
    }
}

/// The absolute path of a file or a directory, as bytes.
///
/// # Errors
/// The current directory is unknown.
pub(crate) fn absolute(path: &Path) -> Result<Vec<u8>> {
    let path = std::path::absolute(path).map_err(Error::file("find", path))?;
    Ok(path.into_os_string().into_vec())
}

/// The same of an optional path; empty without one.
pub(crate) fn optional(path: Option<&Path>) -> Result<Vec<u8>> {
    path.map_or_else(|| Ok(Vec::new()), absolute)
}

/// A path of the daemon, for people and programs.
pub(crate) fn shown(path: &[u8]) -> String {
    PathBuf::from(OsStr::from_bytes(path)).display().to_string()
}

/// The settings of a request: those of the user's file and environment, and the flags.
pub(crate) struct Settings {
    pub(crate) sent: HashMap<String, String>,
    /// The directory for checkpoints without one.
    pub(crate) directory: Option<PathBuf>,
    /// Whether the user has set that it runs on after a dump.
    pub(crate) leave_running: bool,
}

impl Settings {
    /// # Errors
    /// A mistake in a file or the environment.
    pub(crate) fn load() -> Result<Self> {
        let (config, shown) = Config::for_user(config::home().as_deref(), |exceeded| {
            to_stderr(&format!("cedana: warning: {exceeded}\n"));
        })?;
        let own = |source: &Source| match source {
            Source::File(path) => path.ends_with(cedana_config::USER_FILE),
            Source::Environment(_) => true,
            _ => false,
        };
        let sent = shown
            .into_iter()
            .filter(|setting| setting.for_calls && own(&setting.source))
            .map(|setting| (setting.key.to_owned(), setting.value))
            .collect();
        Ok(Self {
            sent,
            directory: config.shared_storage.dump_storage_dir,
            leave_running: config.checkpoint.leave_running == Some(true),
        })
    }

    /// The same with flags, which come first.
    pub(crate) fn with(mut self, flags: DumpOptions) -> Self {
        let compression = flags.compression.map(|compression| match compression {
            Compression::Auto => "auto",
            Compression::None => "none",
            Compression::Zstd => "zstd",
        });
        let flags = [
            (
                "tcp_established",
                flags.tcp_established.map(|v| v.to_string()),
            ),
            ("file_locks", flags.file_locks.map(|v| v.to_string())),
            ("link_remap", flags.link_remap.map(|v| v.to_string())),
            ("ghost_limit", flags.ghost_limit),
            ("compression", compression.map(str::to_owned)),
            ("level", flags.level.map(|v| v.to_string())),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                self.sent.insert(format!("checkpoint.{key}"), value);
            }
        }
        self
    }
}
