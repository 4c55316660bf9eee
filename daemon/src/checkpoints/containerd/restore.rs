//! A restore: a new container with the checkpoint's spec, runtime and writable layer, and
//! a task that goes on from the checkpoint.
//!
//! What has been made is undone, in reverse, if a step fails or the caller cancels. The
//! checkpoint is only read.

use super::api::containers::{
    Container as Record, CreateContainerRequest, DeleteContainerRequest, container::Runtime,
};
use super::api::diff::ApplyRequest;
use super::api::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use super::api::tasks::{CreateTaskRequest, StartRequest};
use super::api::{Descriptor, Mount};
use super::client::{Client, refused};
use super::index::{self, Index, Origin};
use super::lease::Lease;
use super::spec::Spec;
use super::streams::Streams;
use super::{Container, content, find, parent, settings, task};
use crate::checkpoints::cancel::Cancel;
use crate::checkpoints::{Failure, Kind, RestoreOptions, Tell, Told};

/// A checkpoint, as far as a restore reads it.
struct Checkpoint {
    index: Index,
    origin: Origin,
    task: Descriptor,
    spec: Spec,
}

/// What has been made.
#[derive(Default)]
struct Made {
    snapshot: bool,
    container: bool,
    streams: Option<Streams>,
    task: bool,
}

/// A restore, from its preparations on.
struct Restore<'a> {
    /// Makes everything under the lease.
    client: Client,
    id: &'a str,
    checkpoint: Checkpoint,
    cancel: &'a Cancel,
    made: Made,
}

pub(super) async fn restore(
    container: &Container,
    image: &str,
    options: &RestoreOptions,
    tell: &Tell,
    cancel: &Cancel,
) -> Result<i32, Failure> {
    if options.leave_stopped {
        return Err(Failure::new(
            Kind::Invalid,
            "--leave-stopped has no effect on a container of containerd; freeze it after the restore (`cedana freeze containerd`)",
        ));
    }
    let client = Client::of(container).await?;
    let mut checkpoint = Checkpoint::read(&client, container, image).await?;
    if find::exists(&client, &container.id).await? {
        return Err(taken(&container.id));
    }
    if let Some(warning) = settings::not_for_the_restore(&options.config)? {
        // The receiver may have gone, which cancels the call.
        let _ = tell.send(Told::Warning(warning)).await;
    }
    if options.tcp_close || settings::closes_tcp(&options.config)? {
        checkpoint.close_tcp()?;
    }
    let old = checkpoint.origin.container.clone();
    checkpoint.spec.rename(old.as_deref(), &container.id);
    cancel.check()?;
    let lease = Lease::create(&client).await?;
    let result = async {
        let restore = Restore {
            client: client.with_lease(lease.id())?,
            id: &container.id,
            checkpoint,
            cancel,
            made: Made::default(),
        };
        restore.run().await
    };
    let result = result.await;
    lease.delete(&client, result.is_err()).await;
    result
}

fn taken(id: &str) -> Failure {
    Failure::new(
        Kind::Exists,
        format!(
            "there is a container {id} already; give another ID with -p, or remove it (`ctr containers rm {id}`)"
        ),
    )
}

impl Checkpoint {
    /// Reads the parts that decide about a restore.
    async fn read(client: &Client, container: &Container, image: &str) -> Result<Self, Failure> {
        let namespace = &container.namespace;
        let target = find::image(client, image).await?.ok_or_else(|| {
            Failure::new(
                Kind::NotFound,
                format!(
                    "there is no image {image} in containerd's namespace {namespace}; `ctr -n {namespace} images ls` lists those that it has"
                ),
            )
        })?;
        let none = |why: String| {
            Failure::new(
                Kind::Invalid,
                format!("image {image} is no checkpoint of a container: {why}"),
            )
        };
        if target.media_type != index::INDEX {
            return Err(none(format!("its type is {}", target.media_type)));
        }
        let data = content::read(client, &target).await?;
        let index: Index =
            serde_json::from_slice(&data).map_err(|error| none(error.to_string()))?;
        let origin = index.origin();
        let origin = origin.ok_or_else(|| none("it names no runtime".to_owned()))?;
        let part = |media_type| {
            let found = index.part(media_type).map(index::Part::descriptor);
            found.ok_or_else(|| none(format!("it has no {media_type}")))
        };
        let task = part(index::CHECKPOINT)?;
        let spec = content::read(client, &part(index::SPEC)?).await?;
        Ok(Self {
            origin,
            task,
            spec: Spec::decode(&spec)?,
            index,
        })
    }

    /// Has the shim close TCP connections.
    ///
    /// # Errors
    /// The runtime has no such option.
    fn close_tcp(&mut self) -> Result<(), Failure> {
        let runtime = &self.origin.runtime;
        if !settings::is_cedana(runtime) {
            return Err(Failure::new(
                Kind::Invalid,
                format!(
                    "--tcp-close needs the runtime io.containerd.cedana.v2, and the container's is {runtime}"
                ),
            ));
        }
        self.spec.close_tcp();
        Ok(())
    }
}

impl Restore<'_> {
    async fn run(mut self) -> Result<i32, Failure> {
        let result = self.make().await;
        let Err(mut failure) = result else {
            return result;
        };
        if let Err(left) = self.undo().await {
            failure.text += &format!("; and it was not undone: {left}");
        }
        Err(failure)
    }

    async fn make(&mut self) -> Result<i32, Failure> {
        let mounts = self.snapshot().await?;
        self.layer(&mounts).await?;
        self.container().await?;
        self.task(mounts).await
    }

    /// Makes the container's snapshot, on that of its image.
    async fn snapshot(&mut self) -> Result<Vec<Mount>, Failure> {
        let origin = &self.checkpoint.origin;
        let parts = &self.checkpoint.index.manifests;
        let base = match parts.iter().find(|part| part.is_image()) {
            Some(part) => part.descriptor(),
            // A checkpoint by `ctr` without --image.
            None => find::image(&self.client, &origin.image).await?.ok_or_else(|| {
                Failure::new(
                    Kind::State,
                    format!(
                        "image {} of the checkpoint's container is not in containerd; pull or import it first",
                        origin.image
                    ),
                )
            })?,
        };
        let parent = parent::of_image(&self.client, &origin.image, &base).await?;
        let request = PrepareSnapshotRequest {
            snapshotter: origin.snapshotter.clone(),
            key: self.id.to_owned(),
            parent,
        };
        match self.client.snapshots().prepare(request).await {
            Ok(answer) => {
                self.made.snapshot = true;
                Ok(answer.into_inner().mounts)
            }
            Err(status) if status.code() == tonic::Code::AlreadyExists => Err(Failure::new(
                Kind::Exists,
                format!(
                    "there is a snapshot {id} already, of no container of that name; give another ID with -p, or remove it (`ctr snapshots rm {id}`)",
                    id = self.id
                ),
            )),
            Err(status) if status.code() == tonic::Code::NotFound => Err(Failure::new(
                Kind::State,
                format!(
                    "image {} is not unpacked for the snapshotter {}; pull or import it again: containerd: {}",
                    origin.image,
                    origin.snapshotter,
                    status.message()
                ),
            )),
            Err(status) => Err(refused(format!(
                "could not make the snapshot {} with the snapshotter {}",
                self.id, origin.snapshotter
            ))(status)),
        }
    }

    /// Unpacks the writable layer. A checkpoint by `ctr` without --rw has none.
    async fn layer(&self, mounts: &[Mount]) -> Result<(), Failure> {
        let Some(layer) = self.checkpoint.index.part(index::LAYER) else {
            return Ok(());
        };
        let request = ApplyRequest {
            diff: Some(layer.descriptor()),
            mounts: mounts.to_vec(),
        };
        let call = async {
            let answer = self.client.diff().apply(request).await;
            let what = format!(
                "could not unpack the writable layer of container {}",
                self.id
            );
            answer.map(drop).map_err(refused(what))
        };
        self.cancel.or(call, async {}).await
    }

    async fn container(&mut self) -> Result<(), Failure> {
        let origin = &self.checkpoint.origin;
        let options = match self.checkpoint.index.part(index::RUNTIME_OPTIONS) {
            Some(part) => {
                let data = content::read(&self.client, &part.descriptor()).await?;
                let options = prost::Message::decode(&*data).map_err(|error| {
                    Failure::new(
                        Kind::Invalid,
                        format!("the runtime's options in the checkpoint are damaged: {error}"),
                    )
                })?;
                Some(options)
            }
            None => None,
        };
        let record = Record {
            id: self.id.to_owned(),
            image: origin.image.clone(),
            runtime: Some(Runtime {
                name: origin.runtime.clone(),
                options,
            }),
            spec: Some(self.checkpoint.spec.clone().into_any()),
            snapshotter: origin.snapshotter.clone(),
            snapshot_key: self.id.to_owned(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            container: Some(record),
        };
        match self.client.containers().create(request).await {
            Ok(_) => {
                self.made.container = true;
                Ok(())
            }
            Err(status) if status.code() == tonic::Code::AlreadyExists => Err(taken(self.id)),
            Err(status) => Err(refused(format!("could not make container {}", self.id))(
                status,
            )),
        }
    }

    /// Creates the task from the checkpoint, and starts it.
    async fn task(&mut self, mut mounts: Vec<Mount>) -> Result<i32, Failure> {
        if let Some(label) = self.checkpoint.spec.mount_label() {
            for mount in &mut mounts {
                mount.options.push(label.clone());
            }
        }
        let what = || format!("could not restore container {}", self.id);
        let terminal = self.checkpoint.spec.has_terminal();
        let streams = Streams::make(self.id, terminal)?;
        let streams = self.made.streams.insert(streams);
        let request = CreateTaskRequest {
            container_id: self.id.to_owned(),
            rootfs: mounts,
            stdin: streams.stdin.clone(),
            stdout: streams.output.to_owned(),
            stderr: match terminal {
                true => String::new(),
                false => streams.output.to_owned(),
            },
            terminal,
            checkpoint: Some(self.checkpoint.task.clone()),
        };
        let client = &self.client;
        self.cancel.check()?;
        let create = async {
            client
                .tasks()
                .create(request)
                .await
                .map_err(refused(what()))
        };
        // A task whose creation was cancelled may exist all the same.
        let created = self.cancel.or(create, async {}).await;
        self.made.task = created.is_ok() || self.cancel.check().is_err();
        created?;
        let request = StartRequest {
            container_id: self.id.to_owned(),
        };
        let start = async { client.tasks().start(request).await.map_err(refused(what())) };
        let started = self.cancel.or(start, async {}).await?;
        self.cancel.check()?;
        Ok(started.into_inner().pid.cast_signed())
    }

    async fn undo(&self) -> Result<(), Failure> {
        if self.made.task {
            task::remove(&self.client, self.id).await?;
        }
        if let Some(streams) = &self.made.streams {
            streams.remove();
        }
        if self.made.container {
            let request = DeleteContainerRequest {
                id: self.id.to_owned(),
            };
            let answer = self.client.containers().delete(request).await;
            answer.map_err(refused(format!("could not remove container {}", self.id)))?;
        }
        if self.made.snapshot {
            let request = RemoveSnapshotRequest {
                snapshotter: self.checkpoint.origin.snapshotter.clone(),
                key: self.id.to_owned(),
            };
            let answer = self.client.snapshots().remove(request).await;
            answer.map_err(refused(format!("could not remove snapshot {}", self.id)))?;
        }
        Ok(())
    }
}
