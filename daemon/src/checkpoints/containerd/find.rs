//! Finds a container and its task, and says where a missing one may be.

use super::Container;
use super::api::containers::{Container as Record, GetContainerRequest};
use super::api::images::GetImageRequest;
use super::api::namespaces::ListNamespacesRequest;
use super::api::{Descriptor, Status as State};
use super::client::{Client, refused};
use super::task::{self, Task};
use crate::checkpoints::{Failure, Kind};

/// containerd's record of a container.
///
/// # Errors
/// There is no such container in the namespace; the text names those that have one.
pub(super) async fn record(client: &Client, container: &Container) -> Result<Record, Failure> {
    let id = &container.id;
    match client.containers().get(request(id)).await {
        Ok(answer) => Ok(answer.into_inner().container.unwrap_or_default()),
        Err(status) if status.code() == tonic::Code::NotFound => {
            Err(missing(client, container).await)
        }
        Err(status) => Err(refused(format!("could not find container {id}"))(status)),
    }
}

fn request(id: &str) -> GetContainerRequest {
    GetContainerRequest { id: id.to_owned() }
}

/// Whether a container of this ID exists.
pub(super) async fn exists(client: &Client, id: &str) -> Result<bool, Failure> {
    match client.containers().get(request(id)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(status) => Err(refused(format!("could not look for container {id}"))(
            status,
        )),
    }
}

async fn missing(client: &Client, container: &Container) -> Failure {
    let mut text = format!(
        "there is no container {} in containerd's namespace {}",
        container.id, container.namespace
    );
    let others = elsewhere(client, &container.id).await;
    match others.first() {
        Some(first) => {
            text += &format!(
                ", but there is one in {}; add -n {first}",
                others.join(", ")
            )
        }
        None => {
            text += &format!(
                "; `ctr -n {} containers ls` lists those that it has",
                container.namespace
            )
        }
    }
    Failure::new(Kind::NotFound, text)
}

/// The namespaces with a container of this ID. A failure here must not hide that the
/// container is missing.
async fn elsewhere(client: &Client, id: &str) -> Vec<String> {
    let listed = client.namespaces().list(ListNamespacesRequest {}).await;
    let listed = listed.map(|answer| answer.into_inner().namespaces);
    let mut found = Vec::new();
    for namespace in listed.unwrap_or_default() {
        if let Ok(client) = client.in_namespace(&namespace.name)
            && exists(&client, id).await == Ok(true)
        {
            found.push(namespace.name);
        }
    }
    found
}

/// A container's task, which must have processes.
pub(super) async fn running(client: &Client, container: &Container) -> Result<Task, Failure> {
    let id = &container.id;
    let found = task::get(client, id).await?;
    match found {
        Some(task) if task.is_alive() => Ok(task),
        None => {
            record(client, container).await?;
            Err(not_running(container, "it has no task"))
        }
        Some(task) => Err(not_running(container, &format!("its task {}", said(task)))),
    }
}

fn said(task: Task) -> &'static str {
    match task.state {
        State::Created => "is created, but not started",
        State::Stopped => "has ended",
        State::Running => "runs",
        State::Paused | State::Pausing => "is paused",
        State::Unknown => "is in an unknown state",
    }
}

fn not_running(container: &Container, why: &str) -> Failure {
    let (id, namespace) = (&container.id, &container.namespace);
    Failure::new(
        Kind::State,
        format!(
            "container {id} does not run: {why}; `ctr -n {namespace} tasks start {id}` starts a task"
        ),
    )
}

pub(super) fn not_frozen(container: &Container) -> Failure {
    Failure::new(
        Kind::State,
        format!("container {} is not frozen", container.id),
    )
}

/// An image's index or manifest; `None` if there is no such image.
pub(super) async fn image(client: &Client, name: &str) -> Result<Option<Descriptor>, Failure> {
    let request = GetImageRequest {
        name: name.to_owned(),
    };
    match client.images().get(request).await {
        Ok(answer) => Ok(answer.into_inner().image.unwrap_or_default().target),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(refused(format!("could not find image {name}"))(status)),
    }
}
