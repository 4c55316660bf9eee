//! A dump: the container is frozen, its parts are stored, and the image is made.
//!
//! ```text
//! lease ─ freeze ─┬─ writable layer ─ task, spec ─ index ─ image ─┬─ kill
//!                 └───────────── failed or cancelled ─────────────┴─ unfreeze
//! ```
//!
//! The task is killed last, while it is still frozen. If a step fails before the image
//! exists, the task runs on.

use std::time::{Duration, Instant};

use cedana_contract::progress::Phase;
use prost::Message;

use super::api::Descriptor;
use super::api::containers::Container as Record;
use super::api::images::{CreateImageRequest, Image};
use super::api::tasks::CheckpointTaskRequest;
use super::client::{Client, refused};
use super::index::{self, Index, Origin, Part};
use super::layer::Layer;
use super::lease::Lease;
use super::unfinished::Mark;
use super::{Container, content, figures, find, settings, task};
use crate::checkpoints::cancel::Cancel;
use crate::checkpoints::{DumpOptions, Dumped, Failure, Kind, Progress, Tell, Told};

/// A dump, from its preparations on.
struct Dump<'a> {
    /// Makes everything under the lease.
    client: Client,
    lease: &'a Lease,
    record: Record,
    /// The container's image.
    base: Descriptor,
    /// The image that is made.
    name: &'a str,
    options: &'a DumpOptions,
    tell: &'a Tell,
    cancel: &'a Cancel,
    /// Whether the user had it frozen before.
    was_frozen: bool,
}

/// What was stored.
struct Stored {
    checkpoint: Descriptor,
    total: Duration,
}

pub(super) async fn dump(
    container: &Container,
    image: &str,
    options: &DumpOptions,
    tell: &Tell,
    cancel: &Cancel,
) -> Result<Dumped, Failure> {
    let client = Client::of(container).await?;
    let record = find::record(&client, container).await?;
    let found = find::running(&client, container).await?;
    let base = image_of(&client, &record).await?;
    is_free(&client, image).await?;
    let runtime = &record.runtime.clone().unwrap_or_default().name;
    if let Some(warning) = settings::not_for_the_dump(&options.config, runtime)? {
        // The receiver may have gone, which cancels the call.
        let _ = tell.send(Told::Warning(warning)).await;
    }
    cancel.check()?;
    let lease = Lease::create(&client).await?;
    let result = async {
        let client = client.with_lease(lease.id())?;
        // A container that its user has frozen stays so in any case.
        let mark = match found.is_paused() {
            true => None,
            false => Some(Mark::make(container, &lease)?),
        };
        let dump = Dump {
            client,
            lease: &lease,
            record,
            base,
            name: image,
            options,
            tell,
            cancel,
            was_frozen: found.is_paused(),
        };
        let result = dump.run().await;
        if let Some(mark) = mark {
            mark.remove();
        }
        result
    };
    let result = result.await;
    // What a failed dump has stored is removed at once.
    lease.delete(&client, result.is_err()).await;
    result
}

/// The image of a container, which a restore needs.
pub(super) async fn image_of(client: &Client, record: &Record) -> Result<Descriptor, Failure> {
    let id = &record.id;
    let failure = |text| Err(Failure::new(Kind::State, text));
    if record.image.is_empty() || record.snapshot_key.is_empty() {
        return failure(format!(
            "container {id} has no image in containerd, so a checkpoint could not be restored; dump it with `cedana dump runc {id}`, or with its engine (`docker checkpoint`)"
        ));
    }
    match find::image(client, &record.image).await? {
        Some(target) => Ok(target),
        None => failure(format!(
            "image {} of container {id} is no longer in containerd; pull or import it again",
            record.image
        )),
    }
}

/// As with `ctr`, an image is not replaced.
async fn is_free(client: &Client, name: &str) -> Result<(), Failure> {
    match find::image(client, name).await? {
        None => Ok(()),
        Some(_) => Err(taken(name)),
    }
}

fn taken(name: &str) -> Failure {
    Failure::new(
        Kind::Exists,
        format!(
            "there is an image {name} already; give another name with -i, or remove it (`ctr images rm {name}`)"
        ),
    )
}

impl Dump<'_> {
    async fn run(&self) -> Result<Dumped, Failure> {
        let id = &self.record.id;
        let start = Instant::now();
        let mut parts = self.before_the_freeze().await?;
        let layer = Layer::of(&self.client, &self.record, self.lease.id()).await?;
        let frozen = Instant::now();
        let result = match self.freeze().await {
            Ok(()) => self.store(&mut parts, &layer, start).await,
            Err(failure) => Err(failure),
        };
        let unfrozen = match (&result, self.options.leave_running) {
            (Ok(_), false) => task::kill(&self.client, id).await.map_err(|failure| {
                Failure::new(
                    failure.kind,
                    format!("the checkpoint {} is complete, but {failure}", self.name),
                )
            }),
            _ => self.unfreeze().await,
        };
        let frozen = frozen.elapsed();
        layer.done().await;
        let stored = match (result, unfrozen) {
            (Ok(stored), Ok(())) => stored,
            (Ok(_), Err(failure)) => {
                let _ = self.unfreeze().await;
                return Err(failure);
            }
            (Err(failure), Ok(())) => return Err(failure),
            (Err(failure), Err(frozen)) => {
                return Err(Failure::new(
                    failure.kind,
                    format!("{failure}; and it is still frozen: {frozen}"),
                ));
            }
        };
        let figures = figures::of(&self.client, &stored.checkpoint).await;
        Ok(Dumped {
            image: self.name.to_owned(),
            raw_bytes: figures.raw,
            stored_bytes: figures.stored,
            frozen_us: match self.options.leave_running && !self.was_frozen {
                true => microseconds(frozen),
                false => 0,
            },
            total_us: microseconds(stored.total),
            ..Dumped::default()
        })
    }

    /// The parts that don't depend on what the container does: the options of its runtime,
    /// and its image.
    async fn before_the_freeze(&self) -> Result<Vec<Part>, Failure> {
        let mut parts = Vec::new();
        let options = self.record.runtime.as_ref();
        let options = options.and_then(|runtime| runtime.options.as_ref());
        if let Some(options) = options.filter(|options| !options.value.is_empty()) {
            let data = options.encode_to_vec();
            let stored = content::write(&self.client, index::RUNTIME_OPTIONS, data, []).await?;
            parts.push(Part::for_this_machine(stored));
        }
        parts.push(Part::from(self.base.clone()));
        Ok(parts)
    }

    async fn freeze(&self) -> Result<(), Failure> {
        let id = &self.record.id;
        self.cancel.check()?;
        if !self.was_frozen {
            task::pause(&self.client, id).await?;
        }
        if !self.options.leave_running {
            // The shim of cedana may resume a task early, unless a client has asked for
            // the task's state since its pause. A task that is about to be killed must
            // not do anything after its checkpoint.
            task::get(&self.client, id).await?;
        }
        Ok(())
    }

    /// Lets the container run, unless the user had it frozen.
    async fn unfreeze(&self) -> Result<(), Failure> {
        match self.was_frozen {
            true => Ok(()),
            false => task::let_run(&self.client, &self.record.id).await,
        }
    }

    /// Stores what depends on the frozen container, and makes the image.
    async fn store(
        &self,
        parts: &mut Vec<Part>,
        layer: &Layer<'_>,
        start: Instant,
    ) -> Result<Stored, Failure> {
        self.progress(Phase::Dump);
        // Cancelled, nothing of the container is needed any more.
        let let_run = async || {
            if let Err(failure) = self.unfreeze().await {
                log::warn!("{failure}");
            }
        };
        let layer = self.cancel.or(layer.store(), let_run()).await?;
        let known: Vec<_> = parts.iter().map(|part| part.digest.clone()).collect();
        let known = [&known[..], std::slice::from_ref(&layer.digest)].concat();
        parts.push(Part::for_this_machine(layer));
        let options = settings::checkpoint_options(
            &self.options.config,
            &self.origin().runtime,
            self.options.leave_running,
        );
        let checkpoint = self.checkpoint(options.clone(), &known);
        let dumped = self.cancel.or(checkpoint, let_run()).await?;
        self.progress(Phase::Sync);
        let is_checkpoint = |part: &&Descriptor| part.media_type == index::CHECKPOINT;
        let checkpoint = dumped.iter().find(is_checkpoint).cloned().ok_or_else(|| {
            Failure::new(
                Kind::System,
                format!(
                    "containerd has stored no checkpoint of container {}",
                    self.record.id
                ),
            )
        })?;
        parts.extend(dumped.into_iter().map(Part::for_this_machine));
        let data = options.encode_to_vec();
        let options = content::write(&self.client, index::OPTIONS, data, []).await?;
        parts.push(Part::for_this_machine(options));
        self.cancel.check()?;
        self.image(std::mem::take(parts)).await?;
        Ok(Stored {
            checkpoint,
            total: start.elapsed(),
        })
    }

    fn progress(&self, phase: Phase) {
        let progress = Progress {
            phase,
            raw: 0,
            done: 0,
            stored: 0,
        };
        let _ = self.tell.try_send(Told::Progress(progress));
    }

    /// Stores the task and the spec.
    async fn checkpoint(
        &self,
        options: prost_types::Any,
        known: &[String],
    ) -> Result<Vec<Descriptor>, Failure> {
        let id = &self.record.id;
        let request = CheckpointTaskRequest {
            container_id: id.clone(),
            options: Some(options),
        };
        match self.client.tasks().checkpoint(request).await {
            Ok(answer) => Ok(answer.into_inner().descriptors),
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                self.stored_before(known).await
            }
            Err(status) => Err(refused(format!("could not dump container {id}"))(status)),
        }
    }

    /// What containerd has stored, if it refuses to store the spec because the same spec
    /// is stored already.
    ///
    /// containerd 1.7 does so for the second checkpoint of a container, and says no more
    /// (`services/tasks/local.go`, `writeContent`; 2.0 takes it for success). The lease
    /// has the new content.
    async fn stored_before(&self, known: &[String]) -> Result<Vec<Descriptor>, Failure> {
        let spec = self.record.spec.clone().unwrap_or_default().encode_to_vec();
        let spec = content::write(&self.client, index::SPEC, spec, []).await?;
        let kept = self.lease.content(&self.client).await?;
        let mut new = kept
            .into_iter()
            .filter(|digest| *digest != spec.digest && !known.contains(digest));
        match (new.next(), new.next()) {
            (Some(digest), None) => {
                let checkpoint = Descriptor {
                    media_type: index::CHECKPOINT.to_owned(),
                    size: content::size(&self.client, &digest).await?,
                    digest,
                    ..Default::default()
                };
                Ok(vec![checkpoint, spec])
            }
            _ => Err(Failure::new(
                Kind::Exists,
                format!(
                    "could not dump container {}: containerd has stored an equal checkpoint, and does not say which; try again",
                    self.record.id
                ),
            )),
        }
    }

    fn origin(&self) -> Origin {
        let record = &self.record;
        Origin {
            image: record.image.clone(),
            runtime: record.runtime.clone().unwrap_or_default().name,
            snapshotter: record.snapshotter.clone(),
            container: Some(record.id.clone()),
        }
    }

    /// Makes the image.
    async fn image(&self, parts: Vec<Part>) -> Result<(), Failure> {
        let index = Index::of(self.origin(), parts);
        let what = format!("could not make image {}", self.name);
        let data = serde_json::to_vec(&index)
            .map_err(|error| Failure::new(Kind::System, format!("{what}: {error}")))?;
        let target = content::write(&self.client, index::INDEX, data, index.labels()).await?;
        let request = CreateImageRequest {
            image: Some(Image {
                name: self.name.to_owned(),
                target: Some(target),
            }),
        };
        match self.client.images().create(request).await {
            Err(status) if status.code() == tonic::Code::AlreadyExists => Err(taken(self.name)),
            answer => answer.map(drop).map_err(refused(what)),
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
