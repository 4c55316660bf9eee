//! `unpack CHECKPOINT [--to DIR]`: turns one of our checkpoints into a stock one.
//!
//! The result is published in one step, as a new checkpoint is, so a killed process
//! leaves either the original or the whole result.

use std::path::Path;
use std::process::ExitCode;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::format::publish::{self, Durability, Staging};
use cedana_checkpoint::format::{self, contents, unpack};
use cedana_checkpoint::images;
use cedana_checkpoint::opened::OpenedDir;
use cedana_config::Config;
use nix::sys::stat::{Mode, umask};

use super::error::{self, Error};
use crate::cli::Unpack;

/// Unpacks a checkpoint.
pub(crate) fn run(request: &Unpack) -> Result<ExitCode, Error> {
    let to = request.to.as_ref().unwrap_or(&request.dir);
    match convert(&request.dir, to) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(source) => Err(Error::Unpack {
            dir: request.dir.clone(),
            source,
        }),
    }
}

fn convert(dir: &Path, to: &Path) -> Result<(), error::Unpack> {
    let opened = OpenedDir::open_any(dir).map_err(|source| {
        let dir = dir.to_owned();
        format::Error::from(images::Error::Directory { dir, source })
    })?;
    if !opened.is_archive() {
        publish::recover(&opened)?;
    } else if dir == to {
        return Err(error::Unpack::Archive);
    }
    let manifest = Manifest::read(&opened).map_err(format::Error::from)?;
    let manifest = manifest.ok_or(error::Unpack::NotOurs)?;
    let store = Config::load()?.store.path;
    let contents = contents::open(&opened, &manifest, &store)?;
    // For root alone, like the checkpoint.
    umask(Mode::from_bits_truncate(0o077));
    let mut store = Staging::prepare(to, Durability::Disk)?;
    unpack::unpack(&contents.directory, store.place())?;
    store.publish(None)?;
    Ok(())
}
