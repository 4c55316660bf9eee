//! Reads the runtime's record of a container.
//!
//! runc keeps `<root>/<id>/state.json`, crun `<root>/<id>/status` and a copy of the
//! bundle's config.json. The runtimes' `state` command prints neither namespaces nor
//! cgroups, so the files are read.
//!
//! ```text
//! runc  state.json
//! crun  status and config.json
//! ```

mod crun;
mod runc;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{ContainerId, Request};
use crate::oci::runtime::Runtime;
use crate::oci::spec;
use cedana_contract::pid::Pid;

/// The kind of runtime, by its record of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Runc,
    Crun,
}

/// A container, by its runtime's record.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) kind: Kind,
    /// The PID of its init.
    pub(crate) init: Pid,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) network: Network,
    /// Its cgroup directory in the hierarchy with the freezer.
    pub(crate) cgroup: Option<PathBuf>,
    /// Its config.json, if the record names it.
    pub(crate) config: Option<PathBuf>,
    /// The file that holds the network namespace's path.
    record: PathBuf,
}

/// The origin of a container's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// It shares the runtime's.
    Host,
    /// A namespace that the runtime made for it.
    Own,
    /// A namespace that the engine made, with its path.
    Path(PathBuf),
}

impl Network {
    fn from_path(path: Option<&str>) -> Self {
        match path {
            None | Some("") => Self::Own,
            Some(path) => Self::Path(PathBuf::from(path)),
        }
    }
}

/// Why a container's record can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("container {id} does not exist in {}", .roots.iter().map(|r| r.display().to_string()).collect::<Vec<_>>().join(" or "))]
    Missing {
        id: ContainerId,
        roots: Vec<PathBuf>,
    },
    #[error("the runtime's record {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the runtime's record {} has an unknown form ({what}); is this runtime newer than cedana-runc?", path.display())]
    Form { path: PathBuf, what: String },
    #[error("the runtime's record {} cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Container {
    /// Finds a container by its record's files, not by the runtime's name.
    pub(crate) fn find(request: &Request, runtime: &Runtime) -> Result<Self, Error> {
        let roots = match &request.globals.root {
            Some(root) => vec![root.clone()],
            None => default_roots(runtime.is_crun()),
        };
        for root in &roots {
            let dir = root.join(&request.id);
            let runc = dir.join("state.json");
            if runc.exists() {
                return runc::read(runc);
            }
            let crun = dir.join("status");
            if crun.exists() {
                return crun::read(&crun, dir.join("config.json"));
            }
        }
        Err(Error::Missing {
            id: request.id.clone(),
            roots,
        })
    }

    /// Removes the path of a network namespace that was given only for a restore from
    /// the runtime's record. The path no longer exists, so the next checkpoint would
    /// fail; the container itself holds the namespace.
    pub(crate) fn remove_netns_path(&self) -> Result<(), Error> {
        let mut record = read_json(&self.record)?;
        let namespaces = match self.kind {
            Kind::Runc => record.pointer_mut("/config/namespaces"),
            Kind::Crun => record.pointer_mut("/linux/namespaces"),
        };
        let entry = namespaces
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
            .find(|entry| {
                matches!(
                    entry.get("type").and_then(Value::as_str),
                    Some("NEWNET" | "network")
                )
            });
        let Some(entry) = entry else { return Ok(()) };
        match self.kind {
            Kind::Runc => entry.insert("path".to_owned(), Value::from("")),
            Kind::Crun => entry.remove("path"),
        };
        spec::replace(&self.record, record.to_string().as_bytes()).map_err(|source| Error::Write {
            path: self.record.clone(),
            source,
        })
    }
}

/// The default directories of a runtime's state: crun uses XDG_RUNTIME_DIR whenever it
/// is set, runc only if it does not run as root.
fn default_roots(crun: bool) -> Vec<PathBuf> {
    let user = env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty() && (crun || !nix::unistd::geteuid().is_root()))
        .map(PathBuf::from);
    let name = if crun { "crun" } else { "runc" };
    user.into_iter()
        .chain([PathBuf::from("/run")])
        .map(|dir| dir.join(name))
        .collect()
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let text = fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::Form {
        path: path.to_owned(),
        what: error.to_string(),
    })
}

fn form(path: &Path, what: &str) -> Error {
    Error::Form {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
