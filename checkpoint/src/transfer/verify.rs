//! Reads a new archive once more, before it gets its name: every digest, every frame.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::Context;
use super::error::{Error, read};
use crate::format::contents::{self, Directory, Node};
use crate::format::manifest::Manifest;
use crate::format::pages::{Decoder, Reader};
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
    let frames = reader.frames();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Error> {
        let mut decoder = Decoder::default();
        let mut raw = Vec::new();
        loop {
            let frame = next.fetch_add(1, Ordering::Relaxed);
            if frame >= frames {
                return Ok(());
            }
            if (context.cancelled)() {
                return Err(Error::Cancelled);
            }
            let decoded = reader.decode(frame, &mut decoder, &mut raw);
            if let Err(damage) = decoded {
                // This stops the other threads, too.
                next.store(frames, Ordering::Relaxed);
                return Err(format::Error::from(damage).into());
            }
        }
    };
    let others = thread::available_parallelism().map_or(0, |count| count.get() - 1);
    thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let ours = work();
        others.into_iter().fold(ours, |result, other| {
            let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            result.and(other)
        })
    })
}
