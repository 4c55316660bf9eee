//! `cedana checkpoint pin`, `unpin`, `tag` and `untag`.

use cedana_checkpoint::output::printable::printable;
use cedana_store::catalogue::{Catalogue, CheckpointId};
use nix::unistd::geteuid;

use super::{failed, find, missing, open};
use crate::args::StoredCheckpoint;
use crate::error::{Error, Result};

/// Pins a checkpoint, or takes its pin away.
///
/// # Errors
/// There is none, or the store can't be changed.
pub(crate) fn pin(checkpoint: &StoredCheckpoint, pinned: bool) -> Result<()> {
    let (mut catalogue, id) = writable(&checkpoint.id)?;
    let changed = match pinned {
        true => catalogue.pin(&id),
        false => catalogue.unpin(&id),
    };
    // Twice is like once.
    changed.map(drop).map_err(failed)
}

/// Tags a checkpoint.
///
/// # Errors
/// There is none, or the store can't be changed.
pub(crate) fn tag(checkpoint: &StoredCheckpoint, tag: &str) -> Result<()> {
    if tag.is_empty() || printable(tag) != tag {
        return Err(Error::Other(
            "a tag is a text without control characters".to_owned(),
        ));
    }
    let (mut catalogue, id) = writable(&checkpoint.id)?;
    match catalogue.tag(&id, tag).map_err(failed)? {
        true => Ok(()),
        false => Err(missing(id.as_str())),
    }
}

/// Removes a tag.
///
/// # Errors
/// There is none, or the store can't be changed.
pub(crate) fn untag(tag: &str) -> Result<()> {
    need_root()?;
    let removed = match open(true)? {
        Some(mut catalogue) => catalogue.untag(tag).map_err(failed)?,
        None => false,
    };
    match removed {
        true => Ok(()),
        false => Err(Error::Other(format!(
            "no checkpoint has the tag {}; `cedana checkpoint list` shows tags",
            printable(tag)
        ))),
    }
}

fn writable(text: &str) -> Result<(Catalogue, CheckpointId)> {
    need_root()?;
    let id = find(text)?.and_then(|row| row.id);
    match (open(true)?, id) {
        (Some(catalogue), Some(id)) => Ok((catalogue, id)),
        _ => Err(missing(text)),
    }
}

fn need_root() -> Result<()> {
    match geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::Other(
            "the store belongs to root; run this command with sudo".to_owned(),
        )),
    }
}
