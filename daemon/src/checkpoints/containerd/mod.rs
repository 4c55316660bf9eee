//! Containers of containerd, by its gRPC API.
//!
//! A checkpoint is an image of containerd, as `ctr containers checkpoint --image --rw
//! --task` makes it, and is restored as `ctr containers restore --rw --live` does, so
//! that each restores the checkpoints of the other:
//!
//! ```text
//! image REF ──► index ──┬─► options of the runtime
//!                       ├─► the container's image
//!                       ├─► the writable layer
//!                       ├─► CRIU's images, a tar
//!                       ├─► the container's spec
//!                       └─► options of the checkpoint
//! ```
//!
//! The index keeps the rest from containerd's garbage collection, with labels. Until the
//! image exists, a lease keeps it.

mod api;
mod busy;
mod check;
mod client;
mod content;
mod dump;
mod figures;
mod find;
mod index;
mod layer;
mod lease;
mod parent;
mod restore;
mod settings;
mod spec;
mod stored;
mod streams;
mod tar;
mod task;
mod unfinished;

use std::path::PathBuf;

pub(crate) use stored::stored;
pub(crate) use unfinished::finish;

use cedana_config::Config;

use super::{Checked, DumpOptions, Dumped, Failure, RestoreOptions, Tell, cancel};
use busy::Busy;
use client::Client;

/// A container of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// The socket.
    pub(crate) address: PathBuf,
}

/// Dumps a container into an image of this name.
pub(crate) async fn dump(
    container: &Container,
    image: &str,
    options: &DumpOptions,
    tell: &Tell,
) -> Result<Dumped, Failure> {
    let container = container.clone();
    let (image, options, tell) = (image.to_owned(), options.clone(), tell.clone());
    cancel::to_the_end(move |cancel| async move {
        let _busy = Busy::with(&container)?;
        dump::dump(&container, &image, &options, &tell, &cancel).await
    })
    .await
}

/// Returns the process ID of the container's first process.
pub(crate) async fn restore(
    container: &Container,
    image: &str,
    options: &RestoreOptions,
    tell: &Tell,
) -> Result<i32, Failure> {
    let container = container.clone();
    let (image, options, tell) = (image.to_owned(), options.clone(), tell.clone());
    cancel::to_the_end(move |cancel| async move {
        let _busy = Busy::with(&container)?;
        restore::restore(&container, &image, &options, &tell, &cancel).await
    })
    .await
}

pub(crate) async fn freeze(container: &Container) -> Result<(), Failure> {
    let _busy = Busy::with(container)?;
    let client = Client::of(container).await?;
    let task = find::running(&client, container).await?;
    match task.is_paused() {
        true => Ok(()),
        false => task::pause(&client, &container.id).await,
    }
}

pub(crate) async fn unfreeze(container: &Container) -> Result<(), Failure> {
    let _busy = Busy::with(container)?;
    let client = Client::of(container).await?;
    let task = find::running(&client, container).await?;
    match task.is_paused() {
        true => task::resume(&client, &container.id).await,
        false => Err(find::not_frozen(container)),
    }
}

/// Looks at a container, without freezing it, for a dump with these settings.
pub(crate) async fn check(container: &Container, config: &Config) -> Result<Checked, Failure> {
    check::check(container, config).await
}

/// Returns the process ID of a running container's first process.
pub(crate) async fn pid(container: &Container) -> Result<i32, Failure> {
    let client = Client::of(container).await?;
    Ok(find::running(&client, container).await?.pid)
}
