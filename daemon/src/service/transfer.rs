//! Requests and answers of `ExportCheckpoint` and `ImportCheckpoint`.

use cedana_api::v1;
use tonic::Status;

use super::convert::Users;
use super::subject::{optional_path, path, settings};
use crate::caller::Caller;
use crate::job::bytes::Bytes;
use crate::jobs::{WantedExport, WantedImport, WhatIsExported};
use crate::store::JobRow;
use crate::worker::{Compress, Podman, Transferred};

/// What a request asks to export, and what of its settings is beyond the node's limits.
///
/// # Errors
/// A field is missing or not valid.
pub(super) fn wanted_export(
    caller: &Caller,
    request: v1::ExportCheckpointRequest,
) -> Result<(WantedExport, Vec<String>), Status> {
    use v1::export_checkpoint_request::What;
    let (config, warnings) = settings(caller, &request.settings)?;
    let what = match request.what {
        Some(What::Number(number)) => WhatIsExported::Number(number),
        Some(What::Path(bytes)) => WhatIsExported::Path(path("the checkpoint", bytes)?),
        None => return Err(Status::invalid_argument("the request names no checkpoint")),
    };
    let wanted = WantedExport {
        what,
        file: path("the file", request.file)?,
        podman: request.podman.map(podman).transpose()?,
        config,
    };
    Ok((wanted, warnings))
}

fn podman(format: v1::PodmanFormat) -> Result<Podman, Status> {
    let compress = match format.compress() {
        v1::Compress::None => Compress::None,
        v1::Compress::Gzip => Compress::Gzip,
        v1::Compress::Unspecified | v1::Compress::Zstd => Compress::Zstd,
    };
    let bundle = optional_path("the bundle", format.bundle)?;
    Ok(Podman {
        compress,
        name: format.name,
        image: format.image,
        image_id: format.image_id,
        runtime: format.runtime,
        bundle: bundle.as_deref().map(Bytes::of_path),
    })
}

/// What a request asks to import, and what of its settings is beyond the node's limits.
///
/// # Errors
/// A field is missing or not valid.
pub(super) fn wanted_import(
    caller: &Caller,
    request: v1::ImportCheckpointRequest,
) -> Result<(WantedImport, Vec<String>), Status> {
    let (config, warnings) = settings(caller, &request.settings)?;
    let wanted = WantedImport {
        file: path("the file", request.file)?,
        name: request.name,
        directory: optional_path("the directory", request.directory)?,
        config,
    };
    Ok((wanted, warnings))
}

pub(super) fn exported(done: Transferred) -> v1::Exported {
    v1::Exported {
        file: done.path.0,
        bytes: done.bytes,
        raw_bytes: done.raw_bytes,
    }
}

pub(super) fn imported(job: JobRow, done: Transferred) -> v1::Imported {
    v1::Imported {
        job: Some(Users::default().job(job)),
        path: done.path.0,
        bytes: done.bytes,
        raw_bytes: done.raw_bytes,
    }
}
