//! What a runtime has written down about a container.
//!
//! runc keeps `<root>/<id>/state.json`, crun `<root>/<id>/status` and a copy of
//! the bundle's config.json. Neither offers all of it on a command line (`state`
//! says nothing of namespaces or cgroups), so the files are read.

mod crun;
mod runc;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::Request;
use crate::runtime::Kind;

/// A container as its runtime knows it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) kind: Kind,
    /// Process id of its init.
    pub(crate) init: i32,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) network: Network,
    /// Its cgroup directory in the hierarchy that can freeze.
    pub(crate) cgroup: Option<PathBuf>,
    /// The file that holds the network namespace's path.
    record: PathBuf,
}

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// It shares the runtime's.
    Host,
    /// A namespace that the runtime made for it.
    Own,
    /// A namespace that somebody else made; the runtime has the path.
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

/// Why a container can't be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("container {id} does not exist in {}", .roots.iter().map(|r| r.display().to_string()).collect::<Vec<_>>().join(" or "))]
    Missing { id: String, roots: Vec<PathBuf> },
    #[error("the runtime's record {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the runtime's record {} has an unknown form ({what}); is this runtime newer than cedana-runc?", path.display())]
    Form { path: PathBuf, what: String },
    #[error("the runtime's record {} cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Container {
    /// Finds a container by what is there, not by what the runtime is called.
    pub(crate) fn find(request: &Request) -> Result<Self, Error> {
        let roots = roots(request.globals.root.as_deref());
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

    /// Makes the runtime forget the path of a network namespace that was only
    /// handed in for a restore. The container has that namespace for its own
    /// now, and a path that leads nowhere would fail its next checkpoint.
    pub(crate) fn forget_netns_path(&self) -> Result<(), Error> {
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
        replace(&self.record, record.to_string().as_bytes()).map_err(|source| Error::Write {
            path: self.record.clone(),
            source,
        })
    }
}

/// The state directories to look in: the one that was given, or the defaults of
/// runc and crun as root.
fn roots(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(root) = given {
        return vec![root.to_owned()];
    }
    let mut roots = vec![PathBuf::from("/run/runc"), PathBuf::from("/run/crun")];
    // crun follows XDG_RUNTIME_DIR always, runc when rootless.
    if let Some(dir) = env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        let dir = PathBuf::from(dir);
        roots.insert(0, dir.join("crun"));
        roots.insert(1, dir.join("runc"));
    }
    roots
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

/// Replaces a file in one step, keeping its mode, so that a reader sees the old
/// content or the new.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(fs::metadata(path)?.permissions())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn form(path: &Path, what: &str) -> Error {
    Error::Form {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
