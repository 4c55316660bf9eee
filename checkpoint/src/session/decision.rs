//! Decides whether a checkpoint can be restored lazily.

use crate::format::manifest::Manifest;
use crate::host::sys;
use crate::images::Images;
use crate::lazy;
use crate::lazy::layout::Layout;
use crate::output::units;

/// The least memory worth a page source: less is restored before one has started.
const SMALL: u64 = 8 << 20;

/// Whether the checkpoint has too little memory for a page source.
#[must_use]
pub fn is_small(manifest: &Manifest) -> bool {
    bytes(manifest) < SMALL
}

fn bytes(manifest: &Manifest) -> u64 {
    let pages = manifest.files.iter().filter_map(|entry| entry.pages);
    pages.map(|pages| pages.raw_size).sum()
}

/// Checks that a checkpoint can be restored lazily. `limit` is the memory limit of what is
/// restored.
///
/// Processes share memory since their fork. userfaultfd gives each of them a copy,
/// while an eager restore forks them and shares equal pages (CRIU's mem.c,
/// `restore_priv_vma_content`). So a restore is eager where copies could take more
/// than a tenth more memory, or more than the limit.
///
/// # Errors
/// The reason why it can't be lazy.
pub fn possible(
    manifest: &Manifest,
    images: &(impl Images + ?Sized),
    limit: Option<u64>,
) -> Result<(), String> {
    if manifest.parent.is_some() {
        return Err("part of its memory is in an earlier checkpoint".to_owned());
    }
    let bytes = bytes(manifest);
    if let Err(error) = lazy::available() {
        return Err(format!("userfaultfd can't be used here: {error}"));
    }
    let layout = Layout::read(images, sys::page_size()).map_err(|error| error.to_string())?;
    match copies_cost_too_much(layout.inherited, bytes, limit) {
        true => Err(format!(
            "its processes may share up to {} of {} since their fork, which a lazy restore would give to each anew",
            units::bytes(layout.inherited),
            units::bytes(bytes)
        )),
        false => Ok(()),
    }
}

/// Whether a lazy restore of `bytes`, of which an eager one may share `inherited`,
/// needs more than 1.1 times the memory of the eager one, or may exceed a limit
/// that the eager one keeps. An eighth of the limit is left for page tables,
/// sockets and what else the kernel counts.
fn copies_cost_too_much(inherited: u64, bytes: u64, limit: Option<u64>) -> bool {
    let shared = bytes.saturating_sub(inherited);
    let exceeds = limit.is_some_and(|limit| bytes > limit - limit / 8);
    bytes > shared.saturating_add(shared / 10) || (inherited > 0 && exceeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forked_processes_are_restored_eagerly_where_copies_cost_memory() {
        const MIB: u64 = 1 << 20;
        // Nothing shared, a little, a tenth of what an eager restore takes, more.
        assert!(!copies_cost_too_much(0, 100 * MIB, None));
        assert!(!copies_cost_too_much(5 * MIB, 100 * MIB, None));
        assert!(!copies_cost_too_much(10 * MIB, 110 * MIB, None));
        assert!(copies_cost_too_much(11 * MIB, 110 * MIB, None));
        assert!(copies_cost_too_much(800 * MIB, 900 * MIB, None));
        assert!(copies_cost_too_much(u64::MAX, u64::MAX, None));
        // Within a limit, near it, and alone with it.
        assert!(!copies_cost_too_much(MIB, 100 * MIB, Some(200 * MIB)));
        assert!(copies_cost_too_much(MIB, 100 * MIB, Some(110 * MIB)));
        assert!(!copies_cost_too_much(0, 100 * MIB, Some(100 * MIB)));
    }
}
