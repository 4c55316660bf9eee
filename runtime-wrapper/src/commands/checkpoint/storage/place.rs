//! Where a checkpoint goes: a directory, or an archive.

use std::sync::Arc;

use cedana_checkpoint::capture::{self, Capture};
use cedana_checkpoint::format::publish::{ArchivePlace, Durability, NewArchive, Staging};
use cedana_checkpoint::progress::Observer;
use cedana_store::Store;

use super::{in_archive, in_store, parent};
use crate::commands::checkpoint::prepared::Prepared;
use crate::commands::error::Error;

/// Where a checkpoint goes.
pub(super) enum Place {
    Directory(Box<Staging>),
    Archive(Box<NewArchive>),
}

impl Place {
    /// Prepares it for one attempt.
    pub(super) fn prepare(prepared: &Prepared<'_>, durability: Durability) -> Result<Self, Error> {
        let Prepared { request, kind, .. } = prepared;
        if let Some(parent) = parent(request) {
            Staging::check_parent(parent).map_err(|source| in_store(request, source))?;
        }
        let dir = &request.images;
        if let Some(name) = request.archive_name() {
            let place = ArchivePlace::open(dir).map_err(|source| in_archive(request, source))?;
            let archive = NewArchive::begin(place, &name, None);
            let archive = archive.map_err(|source| in_store(request, source))?;
            return Ok(Self::Archive(Box::new(archive)));
        }
        let staging = match kind.lazy {
            true => Staging::in_place(dir),
            false => Staging::prepare(dir, durability),
        };
        let staging = staging.map_err(|source| in_store(request, source))?;
        Ok(Self::Directory(Box::new(staging)))
    }

    /// Starts the capture of what CRIU writes, to a store with zstd's level and the store's
    /// quota.
    pub(super) fn capture(
        &self,
        options: capture::Options,
        store: Option<(&Store, (i32, Option<u64>))>,
        observer: Arc<Observer>,
    ) -> Result<Capture, capture::Error> {
        let (dir, archive) = match self {
            Self::Directory(staging) => (staging.place().to_owned(), None),
            Self::Archive(archive) => {
                let file = archive.file().try_clone().map_err(capture::Error::Start)?;
                let path = archive.shown().to_owned();
                let to = capture::Archive { file, path };
                (archive.scratch().path(), Some(to))
            }
        };
        match (store, archive) {
            (Some((store, limits)), archive) => {
                Capture::to_store(&dir, store, archive, options, limits, observer)
            }
            (None, Some(archive)) => Capture::to_archive(&dir, archive, options, observer),
            (None, None) => Capture::start(&dir, options, observer),
        }
    }
}
