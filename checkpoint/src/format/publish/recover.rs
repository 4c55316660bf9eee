//! Recovery of the leftovers of a killed run, and the moves that publish a checkpoint.

use nix::libc;

use super::error::{Error, at};
use super::steps::{Durability, list, lock, remove, rename};
use crate::format::manifest::{self, PARENT};
use crate::format::streams;
use crate::opened::{OpenedDir, Refused, kind};

pub(super) const NEW: &str = ".cedana-new";
pub(super) const READY: &str = ".cedana-ready";
pub(super) const MOVING: &str = ".cedana-moving";

/// Files of a checkpoint that are no images.
const OTHERS: [&str; 4] = [
    "descriptors.json",
    "stats-dump",
    manifest::NAME,
    streams::NAME,
];

pub(super) const INVENTORY: &str = "inventory.img";

/// Finishes or removes the leftovers of a killed run in `dir`. To be called before a
/// checkpoint is read. It changes nothing while another process writes there.
///
/// # Errors
/// The leftovers can't be moved or removed, or are not this program's: a link could lead
/// to files that are not in the checkpoint.
pub fn recover(dir: &OpenedDir) -> Result<(), Error> {
    // Without leftovers there is no lock, so that a directory that can't be locked can
    // be read.
    if !leftovers(dir)?.contains(&true) {
        return Ok(());
    }
    match lock(dir) {
        Ok(_lock) => carry_on(dir, Durability::Disk),
        Err(Error::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether each of [`NEW`], [`READY`] and [`MOVING`] is there.
fn leftovers(dir: &OpenedDir) -> Result<[bool; 3], Error> {
    let mut found = [false; 3];
    for (found, name) in found.iter_mut().zip([NEW, READY, MOVING]) {
        let path = dir.path().join(name);
        match dir.status(name).map_err(at("read", &path))? {
            None => {}
            Some(status) if kind(&status) == libc::S_IFDIR => *found = true,
            Some(_) => {
                let why = Refused::NoDirectory;
                return Err(Error::Leftover { path, why });
            }
        }
    }
    Ok(found)
}

pub(super) fn carry_on(dir: &OpenedDir, durability: Durability) -> Result<(), Error> {
    let [new, ready, moving] = leftovers(dir)?;
    if new {
        remove(dir, NEW)?;
    }
    if ready {
        remove_checkpoint(dir)?;
        durability.sync(dir)?;
        rename((dir, READY), (dir, MOVING))?;
        durability.sync(dir)?;
    }
    if ready || moving {
        let from = dir.subdirectory(MOVING);
        let from = from.map_err(at("open", &dir.path().join(MOVING)))?;
        let files = list(&from)?;
        for file in files.iter().filter(|name| *name != INVENTORY) {
            rename((&from, file), (dir, file))?;
        }
        durability.sync(dir)?;
        if from.has(INVENTORY) {
            rename((&from, INVENTORY), (dir, INVENTORY))?;
            durability.sync(dir)?;
        }
        remove(dir, MOVING)?;
    }
    Ok(())
}

/// Removes the files of the checkpoint in `dir`: CRIU's images, ours, and those that
/// runtimes write beside them.
pub(super) fn remove_checkpoint(dir: &OpenedDir) -> Result<(), Error> {
    let mut files = list(dir)?;
    files.retain(|name| {
        [".img", ".img.zst", ".img.table", ".img.chunks"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
            || OTHERS.contains(&name.as_str())
            || (name == PARENT && matches!(dir.link(PARENT), Ok(Some(_))))
    });
    files.sort_by_key(|name| name != INVENTORY);
    files.iter().try_for_each(|name| remove(dir, name))
}
