//! Recovery of the leftovers of a killed run, and the moves that publish a checkpoint.

use std::path::Path;

use super::error::Error;
use super::steps::{Durability, file_name, list, lock, remove, rename};
use crate::format::manifest;

pub(super) const NEW: &str = ".cedana-new";
pub(super) const READY: &str = ".cedana-ready";
pub(super) const MOVING: &str = ".cedana-moving";

pub(super) const INVENTORY: &str = "inventory.img";

/// The link that CRIU makes to an earlier pre-dump (CRIU's `CR_PARENT_LINK`).
pub(super) const PARENT: &str = "parent";

/// Finishes or removes the leftovers of a killed run in `dir`. To be called before a
/// checkpoint is read. It changes nothing while another process writes there.
///
/// # Errors
/// The leftovers can't be moved or removed.
pub fn recover(dir: &Path) -> Result<(), Error> {
    // Without leftovers there is no lock, so that a directory that can't be locked can
    // be read.
    if ![NEW, READY, MOVING]
        .iter()
        .any(|name| dir.join(name).exists())
    {
        return Ok(());
    }
    match lock(dir) {
        Ok(_lock) => carry_on(dir, Durability::Disk),
        Err(Error::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn carry_on(dir: &Path, durability: Durability) -> Result<(), Error> {
    let new = dir.join(NEW);
    if new.exists() {
        remove(&new)?;
    }
    let (ready, moving) = (dir.join(READY), dir.join(MOVING));
    if ready.is_dir() {
        remove_checkpoint(dir)?;
        durability.sync(dir)?;
        rename(&ready, &moving)?;
        durability.sync(dir)?;
    }
    if moving.is_dir() {
        let mut files = list(&moving)?;
        let inventory = files.iter().position(|path| path.ends_with(INVENTORY));
        let inventory = inventory.map(|at| files.swap_remove(at));
        for file in files {
            rename(&file, &dir.join(file_name(&file)))?;
        }
        durability.sync(dir)?;
        if let Some(inventory) = inventory {
            rename(&inventory, &dir.join(INVENTORY))?;
            durability.sync(dir)?;
        }
        remove(&moving)?;
    }
    Ok(())
}

/// Removes the files of the checkpoint in `dir`: CRIU's images, ours, and those that
/// runtimes write beside them.
pub(super) fn remove_checkpoint(dir: &Path) -> Result<(), Error> {
    let mut files = list(dir)?;
    files.retain(|path| {
        let name = file_name(path);
        [".img", ".img.zst", ".img.table"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
            || ["descriptors.json", "stats-dump", manifest::NAME].contains(&name.as_str())
            || (name == PARENT && path.is_symlink())
    });
    files.sort_by_key(|path| !path.ends_with(INVENTORY));
    files.iter().try_for_each(|path| remove(path))
}
