//! Storage of a checkpoint: the directory that CRIU writes to, the capture beside it, and
//! what remains to be done when CRIU is done.
//!
//! ```text
//! Directory  CRIU and the capture write to a staging directory, which is renamed
//! Archive    CRIU writes to a hidden directory, the capture to the archive, which is linked
//!
//! place         either of them
//! memory_store  the store, if the memory goes there
//! record        the manifest
//! attributes    what CRIU leaves out of the container's tasks
//! paths         for the runtime and CRIU
//! ```

mod attributes;
pub(super) mod memory_store;
mod paths;
mod place;
mod record;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cedana_checkpoint::attributes::Attributes;
use cedana_checkpoint::capture::{self, ArchiveWriter, Capture, Captured, Expected};
use cedana_checkpoint::format::manifest::{self, Cost, Entry, Manifest};
use cedana_checkpoint::format::pages::Compression;
use cedana_checkpoint::format::publish::{self, Durability, NewArchive};
use cedana_checkpoint::inspect::DumpCost;
use cedana_checkpoint::progress::{Observer, Phase, Progress};

pub(super) use paths::Paths;
use paths::parent;
use place::Place;

use super::compression;
use super::prepared::Prepared;
use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::Failure;
use crate::engine::checkpoint_dir;
use crate::output::units::micros;

/// The state of CRIU when a checkpoint is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Criu {
    /// CRIU waits in its post-dump script, and the container is frozen.
    Waits,
    /// CRIU has exited, with these statistics.
    Ended(Option<DumpCost>),
}

/// The files of a checkpoint that is being taken.
pub(super) struct Storage<'a> {
    prepared: &'a Prepared<'a>,
    place: Place,
    capture: Option<Capture>,
    compression: Compression,
    observer: Arc<Observer>,
    start: Instant,
    /// Those of the container's tasks when the dump began.
    attributes: Attributes,
}

/// A checkpoint that is published.
pub(super) struct Stored {
    /// The archive, if it is one.
    pub(super) archive: Option<PathBuf>,
    /// CRIU's log is still beside an archive.
    _files: Option<Box<NewArchive>>,
}

/// The images that CRIU writes.
pub(super) enum Images<'a> {
    /// Still being captured, or captured and not yet published.
    Captured(Box<Storage<'a>>),
    /// Published as a checkpoint.
    Published(Stored),
    /// Unusable. They are removed, and the container runs on.
    Refused(Error, Option<Box<Storage<'a>>>),
}

impl<'a> Storage<'a> {
    /// Creates a directory for the images, and captures what CRIU writes there if
    /// `capture`. `waits` says that the container is paused until its caller has stored
    /// the checkpoint.
    pub(super) fn begin(
        prepared: &'a Prepared<'a>,
        capture: bool,
        waits: bool,
        expected: Option<Expected>,
        observer: Arc<Observer>,
    ) -> Result<Self, Error> {
        let Prepared {
            request, config, ..
        } = prepared;
        let durability = match checkpoint_dir::is_packed(request) {
            true => Durability::Copied,
            false => Durability::Disk,
        };
        let place = Place::prepare(prepared, durability)?;
        let compression = compression::choose(config, waits && durability == Durability::Copied);
        let capture = match capture {
            true => {
                let options = capture::Options {
                    compression,
                    memory: config.checkpoint.memory,
                    flush: durability == Durability::Disk,
                    expected,
                };
                Some(start_capture(prepared, &place, options, &observer)?)
            }
            false => None,
        };
        Ok(Self {
            prepared,
            place,
            capture,
            compression,
            observer,
            start: Instant::now(),
            attributes: attributes::of(prepared),
        })
    }

    /// The directory that CRIU writes to.
    pub(super) fn images(&self) -> PathBuf {
        match &self.place {
            Place::Directory(staging) => staging.place().to_owned(),
            Place::Archive(archive) => archive.scratch().path(),
        }
    }

    /// Stores what remains of the images, and publishes the checkpoint.
    pub(super) fn finish(mut self, criu: Criu) -> Result<Stored, Error> {
        let result = self.complete(criu);
        match (result, self.place) {
            (Ok(archive), Place::Directory(_)) => Ok(Stored {
                archive,
                _files: None,
            }),
            (Ok(archive), Place::Archive(files)) => Ok(Stored {
                archive,
                _files: Some(files),
            }),
            // CRIU has killed the container, and nothing else is left of it. For an
            // archive it waits.
            (Err(error), Place::Directory(staging))
                if self.prepared.kind.ends && criu != Criu::Waits =>
            {
                Err(Error::Unfinished {
                    id: self.prepared.request.id.clone(),
                    source: Box::new(error),
                    left: staging.keep(),
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Returns the archive's path, if it is one.
    fn complete(&mut self, criu: Criu) -> Result<Option<PathBuf>, Error> {
        let request = self.prepared.request;
        let dumped = self.start.elapsed();
        let captured = match self.capture.take() {
            Some(capture) => {
                let captured = capture.finish();
                Some(captured.map_err(|source| in_capture(request, source))?)
            }
            None => None,
        };
        let parent = match (parent(request), &self.place) {
            (Some(parent), Place::Directory(staging)) => staging.parent(parent),
            _ => Ok(None),
        };
        let parent = parent.map_err(|source| in_store(request, source))?;
        let Some(captured) = captured else {
            return self.publish_unread();
        };
        let Captured {
            files,
            raw_bytes,
            stored_bytes,
            punched,
            archive,
            session,
        } = captured;
        self.judge(punched, raw_bytes)?;
        (self.observer)(Progress {
            phase: Phase::Sync,
            raw: raw_bytes,
            done: raw_bytes,
            stored: stored_bytes,
        });
        self.write_attributes(criu);
        let mut archive = archive;
        let files = self.other_files(files, archive.as_mut())?;
        let mut manifest = record::manifest(self.prepared, self.compression, files)?;
        manifest.parent = parent;
        manifest.cost = Cost {
            frozen_us: match criu {
                Criu::Ended(Some(cost)) if !self.prepared.kind.ends => {
                    Some(u64::from(cost.frozen_us) + micros(self.prepared.paused))
                }
                _ => None,
            },
            dump_us: micros(dumped),
            total_us: micros(self.start.elapsed()),
            raw_bytes,
            stored_bytes,
        };
        let Some(session) = session else {
            record::sign(&mut manifest, self.prepared);
            return self.publish(&manifest, archive);
        };
        let id = memory_store::name(&mut manifest, self.prepared)?;
        record::sign(&mut manifest, self.prepared);
        // The memory first: a directory without it would be no checkpoint.
        let row = memory_store::row(id, &manifest, self.prepared, &self.place);
        let added = session.publish(&row);
        added.map_err(|source| in_capture(request, source.into()))?;
        let published = self.publish(&manifest, archive);
        if published.is_err() {
            // A collection removes what can't be removed now.
            let _ = session.withdraw();
        }
        if let Ok(Some(path)) = &published
            && *path != row.path
        {
            // Another file had the archive's name. Memory of a checkpoint that isn't where
            // the catalogue says would be collected.
            if let Err(source) = session.set_path(path) {
                if let Place::Archive(new) = &self.place {
                    new.withdraw(path);
                }
                return Err(in_capture(request, source.into()));
            }
        }
        published
    }

    /// Publishes what was not captured: a pre-dump, or a dump that others read.
    fn publish_unread(&mut self) -> Result<Option<PathBuf>, Error> {
        let request = self.prepared.request;
        match &mut self.place {
            Place::Directory(staging) => staging
                .publish(None)
                .map(|()| None)
                .map_err(|source| in_store(request, source)),
            Place::Archive(_) => Err(Error::NoArchive {
                id: request.id.clone(),
            }),
        }
    }

    /// Warns of a directory that needed room for all of the memory, and refuses one
    /// without a checkpoint.
    fn judge(&self, punched: bool, raw_bytes: u64) -> Result<(), Error> {
        let request = self.prepared.request;
        if !punched {
            self.prepared.reporter.warning(&format!(
                "the file system of {} cannot punch holes: until a checkpoint is complete it needs room for all of the memory there, {} MiB this time",
                request.images.display(),
                raw_bytes >> 20
            ));
        }
        if !self.images().join("inventory.img").exists() {
            let failure = Failure::without_log(
                "the runtime reported success, but there is no inventory.img; is this runtime able to checkpoint?",
            );
            return Err(Error::failed(request, failure));
        }
        Ok(())
    }

    /// Adds the small images to the page files, and returns the manifest's list.
    fn other_files(
        &self,
        pages: Vec<Entry>,
        archive: Option<&mut ArchiveWriter>,
    ) -> Result<Vec<Entry>, Error> {
        let request = self.prepared.request;
        match (&self.place, archive) {
            (Place::Directory(staging), _) => {
                let mut known = pages;
                let packed = staging.pack_streams();
                known.extend(packed.map_err(|source| in_store(request, source))?);
                let files = staging.digest(known);
                files.map_err(|source| in_store(request, source))
            }
            (Place::Archive(new), Some(writer)) => {
                let files = writer.add_images(new.scratch(), pages);
                files.map_err(|source| in_capture(request, source))
            }
            (Place::Archive(_), None) => Err(Error::NoArchive {
                id: request.id.clone(),
            }),
        }
    }

    fn publish(
        &mut self,
        manifest: &Manifest,
        archive: Option<ArchiveWriter>,
    ) -> Result<Option<PathBuf>, Error> {
        let request = self.prepared.request;
        let new = match (&mut self.place, archive) {
            (Place::Directory(staging), _) => {
                let published = staging.publish(Some(manifest));
                return published
                    .map(|()| None)
                    .map_err(|source| in_store(request, source));
            }
            (Place::Archive(new), archive) => {
                let failed = |source| in_capture(request, source);
                let mut writer = archive.ok_or_else(|| Error::NoArchive {
                    id: request.id.clone(),
                })?;
                let text = manifest.render();
                let text = text.map_err(|source| in_archive(request, source))?;
                let added = writer.add(manifest::NAME, &mut &text[..]);
                added.and_then(|_| writer.finish()).map_err(failed)?;
                new
            }
        };
        // A caller that has ended this command is not told of a file.
        if self.prepared.signals.is_pending() {
            return Err(self.prepared.cancelled());
        }
        let path = new
            .publish()
            .map_err(|source| in_archive(request, source))?;
        Ok(Some(path))
    }

    /// Stops the capture and removes the images.
    pub(super) fn abandon(mut self) -> Result<(), publish::Error> {
        self.capture = None;
        match self.place {
            Place::Directory(staging) => staging.abandon(),
            Place::Archive(_) => Ok(()),
        }
    }
}

/// Starts the capture, to the store if the memory goes there.
fn start_capture(
    prepared: &Prepared<'_>,
    place: &Place,
    options: capture::Options,
    observer: &Arc<Observer>,
) -> Result<Capture, Error> {
    let failed = |source| in_capture(prepared.request, source);
    if let Some(store) = memory_store::choose(prepared)? {
        let target = (&store, memory_store::options(prepared));
        match place.capture(options, Some(target), Arc::clone(observer)) {
            Err(error) if memory_store::may_be_inline(prepared, &error) => {}
            capture => return capture.map_err(failed),
        }
    }
    let capture = place.capture(options, None, Arc::clone(observer));
    capture.map_err(failed)
}

fn in_store(request: &Request, source: publish::Error) -> Error {
    Error::Store {
        verb: request.verb,
        id: request.id.clone(),
        source,
    }
}

fn in_archive(request: &Request, source: io::Error) -> Error {
    Error::Archive {
        id: request.id.clone(),
        dir: request.images.to_path_buf(),
        source,
    }
}

fn in_capture(request: &Request, source: capture::Error) -> Error {
    Error::Follow {
        id: request.id.clone(),
        source,
    }
}
