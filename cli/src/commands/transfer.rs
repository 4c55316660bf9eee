//! `cedana checkpoint export` and `cedana checkpoint import`.
//!
//! The daemon streams its progress, and ends the call if this program goes away: ^C leaves
//! nothing behind.

use cedana_api::v1;
use cedana_api::v1::export_checkpoint_request::What;
use serde_json::json;

use super::checkpoint::{named, stored};
use super::subject::{self, Settings, shown};
use super::{Context, containers, job_of};
use crate::args::{Compress, ExportCheckpoint, ForPodman, Format, ImportCheckpoint};
use crate::error::{Error, Result};
use crate::output::progress::Progress;
use crate::output::{status, to_stderr, to_stdout, units};

/// Writes a checkpoint into one file, and prints its path as the last word.
///
/// # Errors
/// There is no file.
pub(crate) async fn export(context: &Context, export: ExportCheckpoint) -> Result<()> {
    use v1::export_checkpoint_response::Message;
    let podman = podman(export.format, export.podman)?;
    let file = subject::absolute(&export.file)?;
    let daemon = context.daemon().await?;
    let what = match export.checkpoint.contains('/') {
        true => What::Path(subject::absolute(export.checkpoint.as_ref())?),
        false => match stored(context, &export.checkpoint).await? {
            Some(row) => What::Path(subject::absolute(&containers::found(&row)?)?),
            None => What::Number(named(&daemon, &export.checkpoint).await?.number),
        },
    };
    let request = v1::ExportCheckpointRequest {
        what: Some(what),
        file,
        podman,
        settings: Settings::load()?.sent,
    };
    let answers = daemon.checkpoints().export_checkpoint(request).await?;
    let mut answers = answers.into_inner();
    let progress = Progress::new();
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Message::Progress(now)) => progress.show_as("exporting", &now),
            Some(Message::Warning(text)) => warn(&progress, &text),
            Some(Message::Done(done)) => {
                progress.clear();
                to_stdout(match export.json {
                    true => format!("{}\n", exported_json(&done)),
                    false => format!(
                        "{} of memory, {} stored: {}\n",
                        units::size(done.raw_bytes),
                        units::size(done.bytes),
                        shown(&done.file)
                    ),
                });
                return Ok(());
            }
            None => {}
        }
    }
    Err(ended("export"))
}

/// Makes a job of a checkpoint in a file, and prints the checkpoint's path as the last word.
///
/// # Errors
/// There is no job.
pub(crate) async fn import(context: &Context, import: ImportCheckpoint) -> Result<()> {
    use v1::import_checkpoint_response::Message;
    let request = v1::ImportCheckpointRequest {
        file: subject::absolute(&import.file)?,
        name: import.name.unwrap_or_default(),
        directory: subject::optional(import.dir.as_deref())?,
        settings: Settings::load()?.sent,
    };
    let daemon = context.daemon().await?;
    let answers = daemon.checkpoints().import_checkpoint(request).await?;
    let mut answers = answers.into_inner();
    let progress = Progress::new();
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Message::Progress(now)) => progress.show_as("importing", &now),
            Some(Message::Warning(text)) => warn(&progress, &text),
            Some(Message::Done(done)) => {
                progress.clear();
                to_stdout(said(done, import.json)?);
                return Ok(());
            }
            None => {}
        }
    }
    Err(ended("import"))
}

fn warn(progress: &Progress, text: &str) {
    progress.clear();
    to_stderr(&format!("cedana: warning: {text}\n"));
}

fn ended(what: &str) -> Error {
    Error::Refused(format!(
        "the daemon has ended the {what} without a result; see its log"
    ))
}

/// Podman's format, if it is asked for. The keys of JSON are documented in docs/export.md.
fn podman(format: Format, options: ForPodman) -> Result<Option<v1::PodmanFormat>> {
    let is_given = options.name.is_some()
        || options.image.is_some()
        || options.image_id.is_some()
        || options.runtime.is_some()
        || options.bundle.is_some();
    if format == Format::Cedana {
        return match is_given {
            true => Err(Error::Other(
                "--name, --image, --image-id, --runtime and --bundle are for --format podman; add it, or leave them out".to_owned(),
            )),
            false => Ok(None),
        };
    }
    let compress = match options.compress {
        Compress::Zstd => v1::Compress::Zstd,
        Compress::Gzip => v1::Compress::Gzip,
        Compress::None => v1::Compress::None,
    };
    Ok(Some(v1::PodmanFormat {
        compress: compress.into(),
        name: options.name.unwrap_or_default(),
        image: options.image.unwrap_or_default(),
        image_id: options.image_id.unwrap_or_default(),
        runtime: options.runtime.unwrap_or_default(),
        bundle: subject::optional(options.bundle.as_deref())?,
    }))
}

fn exported_json(done: &v1::Exported) -> serde_json::Value {
    json!({
        "file": shown(&done.file),
        "bytes": done.bytes,
        "raw_bytes": done.raw_bytes,
    })
}

fn said(done: v1::Imported, as_json: bool) -> Result<String> {
    let job = job_of(done.job)?;
    let path = shown(&done.path);
    if as_json {
        let described = json!({
            "job": job.id,
            "type": status::type_name(&job),
            "path": path,
            "bytes": done.bytes,
            "raw_bytes": done.raw_bytes,
        });
        return Ok(format!("{described}\n"));
    }
    Ok(format!(
        "job {}, {} of memory, {} stored: {path}\n",
        job.id,
        units::size(done.raw_bytes),
        units::size(done.bytes),
    ))
}
