//! Containers of runc, by `cedana-runc`.

use std::path::PathBuf;

use super::{Checked, DumpOptions, Dumped, Failure, Kind, RestoreOptions, Tell};

/// A container of runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// runc's directory of containers, if the caller names one.
    pub(crate) root: Option<PathBuf>,
}

/// The checkpoint and the bundle of a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) container: Container,
    /// A directory, or an archive by `docker export`.
    pub(crate) bundle: PathBuf,
    pub(crate) checkpoint: From,
}

/// Which checkpoint is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// An archive or a directory.
    Path(PathBuf),
    /// The newest archive in a directory.
    Newest(PathBuf),
}

fn later() -> Failure {
    Failure::new(Kind::Invalid, "not in this version")
}

pub(crate) async fn dump(
    container: &Container,
    options: &DumpOptions,
    tell: &Tell,
) -> Result<Dumped, Failure> {
    let _ = (container, options, tell);
    Err(later())
}

/// Returns the process ID of the container's first process.
pub(crate) async fn restore(
    restore: &Restore,
    options: &RestoreOptions,
    tell: &Tell,
) -> Result<i32, Failure> {
    let _ = (restore, options, tell);
    Err(later())
}

pub(crate) async fn freeze(container: &Container) -> Result<(), Failure> {
    let _ = container;
    Err(later())
}

pub(crate) async fn unfreeze(container: &Container) -> Result<(), Failure> {
    let _ = container;
    Err(later())
}

pub(crate) async fn check(container: &Container) -> Result<Checked, Failure> {
    let _ = container;
    Err(later())
}

/// Returns the process ID of a running container's first process.
pub(crate) async fn pid(container: &Container) -> Result<i32, Failure> {
    let _ = container;
    Err(later())
}
