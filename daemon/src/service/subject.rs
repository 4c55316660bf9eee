//! What a request of `CheckpointService` is about: what its fields say, checked.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use cedana_api::v1;
use cedana_api::v1::subject::What;
use cedana_config::Config;
use cedana_contract::id::ContainerId;
use tonic::Status;

use super::convert;
use crate::caller::Caller;
use crate::checkpoints::{containerd, runc};
use crate::jobs::{Wanted, WantedRestore};

/// What a request is about, with the caller's right to it checked as far as it does not
/// depend on the thing itself.
pub(super) enum Subject {
    Job(Wanted),
    Process(i32),
    Runc(runc::Container),
    Containerd(containerd::Container),
}

impl Subject {
    pub(super) fn of(caller: &Caller, subject: Option<v1::Subject>) -> Result<Self, Status> {
        let what = subject.and_then(|subject| subject.what);
        let what = what.ok_or_else(|| Status::invalid_argument("the request names nothing"))?;
        if !caller.is_root() && !matches!(what, What::Job(_)) {
            return Err(Status::permission_denied(
                "only root may do this to containers and to processes that are no jobs; start the program with `cedana exec`, or use sudo",
            ));
        }
        Ok(match what {
            What::Job(job) => Self::Job(convert::wanted(Some(job))?),
            What::Process(pid) => Self::Process(
                i32::try_from(pid)
                    .ok()
                    .filter(|pid| *pid > 0)
                    .ok_or_else(|| {
                        Status::invalid_argument(format!("{pid} is not a process ID"))
                    })?,
            ),
            What::Runc(container) => Self::Runc(runc_container(container.id, container.root)?),
            What::Containerd(container) => Self::Containerd(containerd_container(container)?),
        })
    }
}

fn runc_container(id: String, root: Vec<u8>) -> Result<runc::Container, Status> {
    Ok(runc::Container {
        id: container_id(id)?,
        root: optional_path("the directory of containers", root)?,
    })
}

fn containerd_container(
    container: v1::ContainerdContainer,
) -> Result<containerd::Container, Status> {
    let or = |text: String, usual: &str| match text.is_empty() {
        true => usual.to_owned(),
        false => text,
    };
    let address = optional_path("containerd's address", container.address)?;
    Ok(containerd::Container {
        id: container_id(container.id)?,
        namespace: or(container.namespace, "default"),
        address: address.unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
    })
}

/// An ID is a name in runc's and containerd's directories.
fn container_id(id: String) -> Result<String, Status> {
    match ContainerId::parse(&id) {
        Some(_) => Ok(id),
        None => Err(Status::invalid_argument(format!(
            "{id:?} is not a container's ID: it is one part of a path"
        ))),
    }
}

pub(super) fn optional_path(what: &str, bytes: Vec<u8>) -> Result<Option<PathBuf>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    match path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        true => Ok(Some(path)),
        false => Err(Status::invalid_argument(format!(
            "{what} {} is not an absolute path",
            path.display()
        ))),
    }
}

pub(super) fn path(what: &str, bytes: Vec<u8>) -> Result<PathBuf, Status> {
    let missing = || Status::invalid_argument(format!("{what} is missing"));
    optional_path(what, bytes)?.ok_or_else(missing)
}

/// The node's settings with those of a call, and what is beyond its limits.
pub(super) fn settings(
    caller: &Caller,
    sent: &HashMap<String, String>,
) -> Result<(Config, Vec<String>), Status> {
    let node = Config::load().map_err(|error| Status::failed_precondition(error.to_string()))?;
    let mut warnings = Vec::new();
    let sent = sent.iter().map(|(key, text)| (&**key, &**text));
    let config = node.with_call(sent, caller.is_root(), |exceeded| {
        warnings.push(exceeded.to_string());
    });
    let config = config.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok((config, warnings))
}

/// What is restored.
pub(super) enum Wants {
    Job(WantedRestore),
    Runc(runc::Restore),
    Containerd(containerd::Container, String),
}

/// What a request asks to restore.
///
/// # Errors
/// A field is not valid.
pub(super) fn restored(what: v1::restore_request::What) -> Result<Wants, Status> {
    use v1::restore_request::What;
    Ok(match what {
        What::Job(request) => Wants::Job(WantedRestore {
            job: convert::wanted(Some(request.job.unwrap_or_default()))?,
            path: optional_path("the checkpoint", request.path)?,
            terminal: convert::terminal_size(request.terminal.unwrap_or_default()),
        }),
        What::Runc(request) => Wants::Runc(restore_runc(request)?),
        What::Containerd(request) => {
            let container = request.container.unwrap_or_default();
            Wants::Containerd(containerd_container(container)?, request.image)
        }
    })
}

fn restore_runc(request: v1::RestoreRunc) -> Result<runc::Restore, Status> {
    let checkpoint = match optional_path("the checkpoint", request.path)? {
        Some(path) => runc::From::Path(path),
        None => runc::From::Newest(path("the checkpoint", request.directory)?),
    };
    Ok(runc::Restore {
        container: runc_container(request.id, request.root)?,
        bundle: path("the bundle", request.bundle)?,
        checkpoint,
    })
}
