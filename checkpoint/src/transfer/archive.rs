//! An archive of ours of any checkpoint.
//!
//! ```text
//! every file is stored here ─► copied as it is, with the manifest and its signature
//! some memory is elsewhere,
//! or there is no manifest ───► raw bytes ─► frames ─► a new manifest
//! ```

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{Error, read};
use super::new::New;
use super::verify::verify;
use super::{Context, Report, Source};
use crate::format::manifest::{self, Entry, Kind, MAX_BYTES as MAX_MANIFEST, Manifest, is_pages};
use crate::images::Images;

/// Writes an archive to an empty file, and reads it once more. `shown` is the path that the
/// file will have, for messages.
///
/// # Errors
/// The checkpoint is damaged, or the file can't be written.
pub fn archive(
    source: &Source,
    file: &File,
    shown: &Path,
    context: &Context<'_>,
) -> Result<Report, Error> {
    let new = New::begin(file, shown, context)?;
    let report = match &source.manifest {
        Some(manifest) if manifest.files.iter().all(is_here) => copied(source, manifest, new)?,
        _ => rewritten(source, new)?,
    };
    // Damage is the source's.
    verify(file, source.path(), context)?;
    Ok(report)
}

/// Whether a file has all that it says: no memory of it is elsewhere.
fn is_here(entry: &Entry) -> bool {
    use Kind::{Image, Other, Pages, Plain, Streams, Table};
    matches!(entry.kind, Image | Pages | Plain | Table | Streams | Other)
}

fn copied(source: &Source, manifest: &Manifest, mut new: New<'_>) -> Result<Report, Error> {
    for entry in &manifest.files {
        let path = source.path().join(&entry.name);
        let file = source.opened.file(&entry.name);
        new.copy(&entry.name, &mut file.map_err(read(&path))?, &path)?;
    }
    // The text itself, because a signature is of its values, and its digest names the
    // checkpoint.
    let path = source.path().join(manifest::NAME);
    let mut text = Vec::new();
    let file = source.opened.file(manifest::NAME);
    let read_text = file.and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut text));
    read_text.map_err(read(&path))?;
    new.finish_with(&text, manifest.clone())
}

fn rewritten(source: &Source, mut new: New<'_>) -> Result<Report, Error> {
    let mut manifest = source.described()?;
    // The archive has all of it.
    manifest.store = None;
    let is_signed = match &new.context.key {
        Some(key) => manifest.is_signed_by(key),
        None => false,
    };
    if !is_signed {
        manifest.signature = None;
    }
    let files = source.contents.files().map_err(read(source.path()))?;
    for (name, _) in files {
        let path = source.path().join(&name);
        let mut raw = source.contents.image(&name).map_err(read(&path))?;
        match is_pages(&name) {
            true => new.add_pages(&name, &mut raw, &path)?,
            false => new.add(&name, &mut raw, &path)?,
        }
    }
    new.finish(manifest)
}
