//! Containers of containerd, by its API.

use std::path::PathBuf;

use super::{Checked, DumpOptions, Dumped, Failure, Kind, RestoreOptions, Tell};

/// A container of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// The socket.
    pub(crate) address: PathBuf,
}

fn later() -> Failure {
    Failure::new(Kind::Invalid, "not in this version")
}

/// Dumps a container into an image of this name.
pub(crate) async fn dump(
    container: &Container,
    image: &str,
    options: &DumpOptions,
    tell: &Tell,
) -> Result<Dumped, Failure> {
    let _ = (container, image, options, tell);
    Err(later())
}

/// Returns the process ID of the container's first process.
pub(crate) async fn restore(
    container: &Container,
    image: &str,
    options: &RestoreOptions,
    tell: &Tell,
) -> Result<i32, Failure> {
    let _ = (container, image, options, tell);
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
