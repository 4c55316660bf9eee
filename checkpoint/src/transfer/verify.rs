//! Reads a new archive once more, before it gets its name: every digest, every frame.

use std::fs::File;
use std::path::Path;

use super::Context;
use super::error::{Error, read};
use crate::format::contents::{self, Directory, Node};
use crate::format::manifest::Manifest;
use crate::format::pages::Reader;
use crate::format::{self};
use crate::opened::OpenedDir;

/// Verifies an archive. `shown` is the path in errors: that of the source, whose damage a
/// copy has.
pub(super) fn verify(file: &File, shown: &Path, context: &Context<'_>) -> Result<(), Error> {
    let file = file.try_clone().map_err(read(shown))?;
    let opened = OpenedDir::of_file(file, shown).map_err(read(shown))?;
    let manifest = Manifest::read(&opened).map_err(format::Error::from)?;
    let manifest = manifest.ok_or_else(|| read(shown)(std::io::ErrorKind::NotFound.into()))?;
    let contents = contents::open(&opened, &manifest, context.store)?;
    nodes(&contents.directory, context)
}

fn nodes(directory: &Directory, context: &Context<'_>) -> Result<(), Error> {
    for node in directory.values() {
        match node {
            Node::Pages { reader, .. } => frames(reader, context)?,
            Node::Packed(part) => frames(&part.reader, context)?,
            // Its digest was compared when it was opened.
            Node::File { .. } | Node::Stock { .. } => {}
            Node::Directory(within) => nodes(within, context)?,
        }
    }
    Ok(())
}

fn frames(reader: &Reader, context: &Context<'_>) -> Result<(), Error> {
    reader.each_frame(|frame, decoder, raw| {
        if (context.cancelled)() {
            return Err(Error::Cancelled);
        }
        let decoded = reader.decode(frame, decoder, raw);
        decoded.map_err(|damage| format::Error::from(damage).into())
    })
}
