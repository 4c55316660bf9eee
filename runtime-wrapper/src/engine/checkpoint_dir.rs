//! Checkpoints that containerd packs: unless its client says where one is to
//! stand, it has it made in a temporary directory, packs that into an archive in
//! its content store, syncs the archive, and removes the directory. Which has two
//! consequences.
//!
//! **Nothing is synced**, since the directory is not what lasts. After a power
//! failure nobody would look for it, and what was synced would keep the disk from
//! the archive.
//!
//! **The archive must differ from that of a copy.** Docker lets containerd pack a checkpoint into an archive, unpacks that and
//! drops it; to restore it packs the copy again and stores the archive, which
//! fails ("content sha256:... already exists", moby issue 42900) as long as the
//! equal first one has not been collected. A whiteout of a file that never was
//! makes them differ: whoever unpacks an archive with it removes nothing, and
//! leaves it out.

use std::fs;
use std::io;
use std::path::Path;

use cedana_contract::engine::is_temporary_checkpoint;

const WHITEOUT: &str = ".wh.cedana";

/// Adds a whiteout to a checkpoint that containerd packs.
///
/// # Errors
/// It can't be written.
pub(crate) fn set_apart_from_copies(images: &Path) -> io::Result<()> {
    match is_packed(images) {
        true => fs::write(images.join(WHITEOUT), ""),
        false => Ok(()),
    }
}

/// Whether containerd packs what is written to this directory.
pub(crate) fn is_packed(images: &Path) -> bool {
    is_temporary_checkpoint(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_containerd_packs_is_set_apart() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, marked) in [
            ("ctrd-checkpoint123", true),
            ("ctrd-checkpoint", false),
            ("ctrd-checkpoint-mine", false),
            ("mine", false),
        ] {
            let images = dir.path().join(name);
            fs::create_dir(&images).expect("mkdir");
            set_apart_from_copies(&images).expect("write");
            assert_eq!(images.join(WHITEOUT).exists(), marked, "{name}");
        }
    }
}
