//! An archive of ours of a file from elsewhere.
//!
//! ```text
//! an archive of ours           ─► copied, with its manifest
//! Podman's, CRI-O's, kubelet's ─► Foreign ─┬─ checkpoint/pages-N.img ─► frames
//!                                          ├─ checkpoint/NAME ────────► NAME
//!                                          └─ other files ────────────► engine.NAME
//! ```
//!
//! A foreign archive is read in one pass, and nothing of it is written anywhere else. Its
//! images may be those of `cedana-runc`, with a manifest: then the files are copied, and
//! compared with their digests when the new archive is verified.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::engine_files::{CONFIG, IMAGES, SPEC, STATS, stored_name};
use super::error::{Error, read};
use super::new::New;
use super::podman_config::MAX_CONFIG;
use super::source::{Source, unknown};
use super::verify::verify;
use super::{Context, Report, archive};
use crate::archive::{Foreign, ForeignEntry, Index};
use crate::format::manifest::{Fault, Kind, MAX_BYTES, Manifest, NAME, is_pages};
use crate::format::{self, manifest};
use crate::opened::OpenedDir;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Writes an archive of ours of the checkpoint in a regular file. `path` names that, and
/// `shown` the new one, for messages.
///
/// # Errors
/// The file is damaged, is no archive of a checkpoint, or the new one can't be written.
pub fn import(
    file: File,
    path: &Path,
    new: &File,
    shown: &Path,
    context: &Context<'_>,
) -> Result<Report, Error> {
    let unfit = |why: &str| Error::Unfit {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    if !file.metadata().map_err(read(path))?.is_file() {
        return Err(unfit("it is not a regular file; give an archive's path"));
    }
    let mut magic = [0; 512];
    let length = file.read_at(&mut magic, 0).map_err(read(path))?;
    match &magic[..length] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let input = zstd::stream::read::Decoder::new(file).map_err(read(path))?;
            foreign(input, path, new, shown, context)
        }
        [0x1f, 0x8b, ..] => {
            let input = BufReader::with_capacity(BUFFER, file);
            foreign(
                flate2::bufread::MultiGzDecoder::new(input),
                path,
                new,
                shown,
                context,
            )
        }
        head if head.get(257..262) == Some(b"ustar") => {
            let is_ours = Index::read(&file).is_ok_and(|index| index.get(NAME).is_some());
            if !is_ours {
                let input = BufReader::with_capacity(BUFFER, file);
                return foreign(input, path, new, shown, context);
            }
            let opened = OpenedDir::of_file(file, path).map_err(read(path))?;
            let source = Source::new(opened, context.store)?;
            if source.claims_store(None) {
                return Err(unfit(
                    "its memory is in a store and not in it; on the node that took it, `cedana checkpoint export` makes it whole",
                ));
            }
            archive(&source, new, shown, context)
        }
        _ => Err(unfit(
            "it is not a tar, plain or compressed with gzip or zstd; give a file that `cedana checkpoint export` or `podman container checkpoint --export` wrote",
        )),
    }
}

fn foreign(
    input: impl Read,
    path: &Path,
    new: &File,
    shown: &Path,
    context: &Context<'_>,
) -> Result<Report, Error> {
    let mut import = Import {
        path,
        new: New::begin(new, shown, context)?,
        names: BTreeSet::new(),
        inner: None,
        config: Value::Null,
        spec: None,
        taken: None,
    };
    let mut tar = Foreign::new(input);
    let refused = |fault| Error::Foreign {
        path: path.to_owned(),
        fault,
    };
    while let Some(entry) = tar.entry().map_err(refused)? {
        if !entry.is_directory {
            import.file(&entry, &mut tar)?;
        }
    }
    let report = import.finish()?;
    verify(new, path, context)?;
    Ok(report)
}

/// What was read of a foreign archive.
struct Import<'a> {
    path: &'a Path,
    new: New<'a>,
    /// Names in the new archive.
    names: BTreeSet<String>,
    /// The manifest of images of `cedana-runc`.
    inner: Option<Manifest>,
    /// `config.dump` and `spec.dump`.
    config: Value,
    spec: Option<Value>,
    /// The time of CRIU's inventory.
    taken: Option<u64>,
}

impl Import<'_> {
    fn unfit(&self, why: impl Into<String>) -> Error {
        Error::Unfit {
            path: self.path.to_owned(),
            why: why.into(),
        }
    }

    /// Adds a file.
    fn file(&mut self, entry: &ForeignEntry, content: &mut dyn Read) -> Result<(), Error> {
        let from = self.path.join(&entry.path);
        match entry.path.split_once('/') {
            Some((IMAGES, name)) if name.contains('/') => Err(self.unfit(format!(
                "its checkpoint has a directory in it ({}), which CRIU's never has",
                entry.path
            ))),
            Some((IMAGES, name)) if name == NAME => self.manifest(content, &from),
            // CRIU's, of a dump or a restore.
            Some((IMAGES, name)) if name.ends_with(".log") => Ok(()),
            Some((IMAGES, name)) => {
                if name == "inventory.img" {
                    self.taken = Some(entry.modified);
                }
                self.image(name, content, &from)
            }
            None if entry.path == NAME => Err(self.unfit(
                "it is an archive of Cedana's that was compressed or changed; decompress it (`zstd -d`, `gunzip`), or copy it again",
            )),
            None if entry.path == STATS => match self.names.contains(STATS) {
                true => Ok(()),
                false => self.image(STATS, content, &from),
            },
            None if [CONFIG, SPEC].contains(&&*entry.path) => self.engine_json(entry, content, &from),
            _ => {
                let name = self.name(stored_name(&entry.path))?;
                self.new.add(&name, content, &from)
            }
        }
    }

    /// A name in the new archive, which must not be taken.
    fn name(&mut self, name: String) -> Result<String, Error> {
        match self.names.insert(name.clone()) {
            true => Ok(name),
            false => Err(self.unfit(format!("it has {name} twice"))),
        }
    }

    fn image(&mut self, name: &str, content: &mut dyn Read, from: &Path) -> Result<(), Error> {
        let name = match name {
            // Podman has it beside the directory, and a runtime in it.
            STATS if self.names.contains(STATS) => return Ok(()),
            name => self.name(name.to_owned())?,
        };
        let listed = self
            .inner
            .as_ref()
            .is_some_and(|inner| inner.file(&name).is_some());
        match is_pages(&name) && !listed {
            true => self.new.add_pages(&name, content, from),
            false => self.new.add(&name, content, from),
        }
    }

    /// Keeps a configuration for the manifest, and for an export.
    fn engine_json(
        &mut self,
        entry: &ForeignEntry,
        content: &mut dyn Read,
        from: &Path,
    ) -> Result<(), Error> {
        let text = self.bounded(content, MAX_CONFIG, from)?;
        let name = self.name(stored_name(&entry.path))?;
        self.new.add_bytes(&name, &text)?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|error| self.unfit(format!("its {} is no JSON: {error}", entry.path)))?;
        match entry.path == CONFIG {
            true => self.config = value,
            false => self.spec = Some(value),
        }
        Ok(())
    }

    fn manifest(&mut self, content: &mut dyn Read, from: &Path) -> Result<(), Error> {
        let text = self.bounded(content, MAX_BYTES, from)?;
        let parsed = Manifest::parse(&text).map_err(|fault| {
            let (file, dir) = (from.to_owned(), self.path.to_owned());
            format::Error::from(match fault {
                Fault::Newer(found) => manifest::Error::Newer { dir, found },
                Fault::Invalid(why) => manifest::Error::Invalid { file, why },
            })
        })?;
        // Podman packs in the order of names, so this is one of the first.
        if self.names.iter().any(|name| name.starts_with("pages-")) {
            return Err(self.unfit(format!(
                "{NAME} must be before the memory that it lists; pack the files in the order of their names"
            )));
        }
        if parsed.parent.is_some() {
            return Err(self.unfit(
                "part of its memory is in an earlier pre-dump; export the checkpoint without --with-previous",
            ));
        }
        match self.inner.replace(parsed) {
            None => Ok(()),
            Some(_) => Err(self.unfit(format!("it has {NAME} twice"))),
        }
    }

    fn bounded(&self, content: &mut dyn Read, limit: u64, from: &Path) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        let read_text = content.take(limit + 1).read_to_end(&mut text);
        read_text.map_err(read(from))?;
        match text.len() as u64 > limit {
            true => Err(read(from)(io::ErrorKind::FileTooLarge.into())),
            false => Ok(text),
        }
    }

    fn finish(mut self) -> Result<Report, Error> {
        if !self.names.contains("inventory.img") {
            return Err(self.unfit(
                "it has no checkpoint/inventory.img, so it is no archive of a container's checkpoint; `checkpointctl show` says what it is",
            ));
        }
        let mut manifest = match self.inner.take() {
            Some(inner) => {
                self.keep_listed(&inner)?;
                inner
            }
            None => unknown(self.taken.unwrap_or(0)).map_err(read(self.path))?,
        };
        // Nothing vouches for the engine's files.
        manifest.signature = None;
        let text = |key: &str| {
            let text = self.config[key].as_str();
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let container = &mut manifest.container;
        if container.id.is_empty() {
            container.id = text("id").unwrap_or_default();
        }
        container.image = container.image.take().or_else(|| text("rootfsImageName"));
        container.spec = container.spec.take().or(self.spec.take());
        if manifest.versions.runtime.is_empty() {
            manifest.versions.runtime = text("runtime").unwrap_or_default();
        }
        manifest.options.insert("imported".to_owned(), true.into());
        self.new.finish(manifest)
    }

    /// Takes the entries of the inner manifest for the files that it lists, and leaves out
    /// files that it doesn't list. A listed file that is missing is found by `verify`.
    fn keep_listed(&mut self, inner: &Manifest) -> Result<(), Error> {
        let is_engines = |name: &str| super::engine_files::path_of(name).is_some();
        if let Some(entry) = inner.files.iter().find(|entry| is_engines(&entry.name)) {
            let why = format!("its manifest lists {}, a name of an import", entry.name);
            return Err(self.unfit(why));
        }
        let entries = &mut self.new.entries;
        entries.retain(|entry| is_engines(&entry.name) && entry.kind == Kind::Other);
        entries.extend(inner.files.iter().cloned());
        Ok(())
    }
}
