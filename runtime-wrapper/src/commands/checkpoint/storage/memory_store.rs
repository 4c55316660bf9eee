//! The store as the place of a checkpoint's memory: when it is, and what its catalogue
//! says of the checkpoint.
//!
//! A checkpoint of Docker's never leaves the node, so its memory goes to the store by
//! default. If the store can't be used then, the checkpoint holds the memory itself, as
//! every other one does. A quota is the administrator's word: what it refuses goes nowhere
//! else.

use cedana_checkpoint::capture;
use cedana_checkpoint::format::manifest::{Manifest, StoreReference};
use cedana_config::{Compression, Storage as Setting};
use cedana_store::Store;
use cedana_store::catalogue::{CheckpointId, NewCheckpoint};
use nix::sys::stat::stat;
use nix::unistd::geteuid;
use serde_json::{Value, json};

use super::place::Place;
use crate::commands::checkpoint::prepared::Prepared;
use crate::commands::error::Error;
use crate::engine::{checkpoint_dir, docker};

/// zstd's fastest level: what `checkpoint.compression = "none"` means in the store.
const FASTEST: i32 = -7;

/// The store for a checkpoint's memory; `None` if the checkpoint holds it.
///
/// # Errors
/// The settings want the store, and it can't be used.
pub(super) fn choose(prepared: &Prepared<'_>) -> Result<Option<Store>, Error> {
    let request = prepared.request;
    let by_default = match prepared.config.checkpoint.store {
        _ if prepared.without_store.get() => return Ok(None),
        Setting::Inline => return Ok(None),
        Setting::Reference => false,
        // Another user's directory is no place for the node's store.
        Setting::Auto if !docker::is_caller(request) || !geteuid().is_root() => return Ok(None),
        Setting::Auto => true,
    };
    match Store::create(&prepared.config.store.path) {
        Ok(store) => Ok(Some(store)),
        Err(error) if by_default => {
            fall_back(prepared, &error);
            Ok(None)
        }
        Err(source) => Err(Error::MemoryStore {
            id: request.id.clone(),
            source,
        }),
    }
}

/// Whether a checkpoint that could not be captured to the store may hold the memory
/// itself. Says so.
pub(in crate::commands::checkpoint) fn may_be_inline(
    prepared: &Prepared<'_>,
    error: &capture::Error,
) -> bool {
    let config = &prepared.config;
    let is_the_stores = match error {
        capture::Error::Store(cedana_store::Error::Quota { .. }) => false,
        capture::Error::Store(_) => true,
        // A pack, which the capture writes.
        capture::Error::File { path, .. } => path.starts_with(&config.store.path),
        _ => false,
    };
    let may = is_the_stores && config.checkpoint.store == Setting::Auto;
    if may {
        fall_back(prepared, error);
    }
    may
}

fn fall_back(prepared: &Prepared<'_>, error: &dyn std::error::Error) {
    prepared.reporter.warning(&format!(
        "the checkpoint of container {} holds the memory itself, because the store cannot be used: {error}",
        prepared.request.id
    ));
}

/// zstd's level, and the quota.
pub(super) fn options(prepared: &Prepared<'_>) -> (i32, Option<u64>) {
    let checkpoint = &prepared.config.checkpoint;
    let level = match checkpoint.compression {
        Compression::None => FASTEST,
        Compression::Auto | Compression::Zstd => checkpoint.level,
    };
    let quota = prepared.config.store.quota;
    (level, (quota != 0).then_some(quota))
}

/// Names the checkpoint in its manifest.
pub(super) fn name(
    manifest: &mut Manifest,
    prepared: &Prepared<'_>,
) -> Result<CheckpointId, Error> {
    let id = CheckpointId::random().map_err(|source| Error::Machine {
        id: prepared.request.id.clone(),
        source,
    })?;
    manifest.store = Some(StoreReference { id: id.to_string() });
    Ok(id)
}

/// What the catalogue says of a checkpoint.
pub(super) fn row(
    id: CheckpointId,
    manifest: &Manifest,
    prepared: &Prepared<'_>,
    place: &Place,
) -> NewCheckpoint {
    let request = prepared.request;
    let path = match place {
        Place::Directory(_) => &*request.images,
        Place::Archive(archive) => archive.shown(),
    };
    NewCheckpoint {
        id,
        name: Some(request.id.to_string()),
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        raw_bytes: manifest.cost.raw_bytes,
        bytes: manifest.files.iter().map(|file| file.size).sum(),
        subject: subject(prepared),
        details: manifest.details(),
    }
}

/// What a checkpoint is of, for the one that looks for references to it.
fn subject(prepared: &Prepared<'_>) -> Value {
    let request = prepared.request;
    let namespace = request
        .globals
        .root
        .as_deref()
        .and_then(|root| root.file_name());
    let namespace = namespace.map(|name| name.to_string_lossy().into_owned());
    let container = request.id.to_string();
    if docker::is_caller(request) {
        return json!({
            "engine": "docker",
            "root": docker::root(&request.id, prepared.spec.as_ref()),
            "container": container,
            "namespace": namespace,
        });
    }
    if checkpoint_dir::is_packed(request) {
        return json!({
            "engine": "containerd",
            "container": container,
            "namespace": namespace,
            "packed": true,
        });
    }
    // A directory that is missing later may be on a disk that is not mounted.
    let above = request.images.ancestors().find_map(|dir| stat(dir).ok());
    json!({
        "engine": "none",
        "container": container,
        "device": above.map(|status| status.st_dev),
    })
}
