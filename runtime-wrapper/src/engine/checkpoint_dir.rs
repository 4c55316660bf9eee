//! Checkpoint directories that containerd packs.
//!
//! Unless its client names a directory, containerd has a checkpoint written to a
//! temporary directory, packs it into an archive in its content store, syncs the
//! archive, and removes the directory. This has two consequences.
//!
//! **The directory is not synced.** After a power failure it is not used, and syncing it
//! would delay the writing of the archive.
//!
//! **The archive must differ from an archive of its copy.** Docker unpacks containerd's
//! archive and drops it. To restore, Docker packs the copy again and stores the new
//! archive, which fails ("content sha256:... already exists", moby issue 42900) until
//! the equal first archive is garbage-collected. A whiteout of a file that does not
//! exist makes the archives differ: unpacking it removes no file, and the copy does not
//! contain it.

use std::fs;
use std::io;

use cedana_contract::engine::is_temporary_checkpoint;

use crate::cli::ImagePath;

const WHITEOUT: &str = ".wh.cedana";

/// The directory in which the runtime writes, until the checkpoint is published
/// (`cedana_checkpoint::format::publish`).
const UNPUBLISHED: &str = ".cedana-new";

/// Adds a whiteout to a checkpoint that containerd packs.
///
/// # Errors
/// The whiteout can't be written.
pub(crate) fn add_whiteout(images: &ImagePath) -> io::Result<()> {
    match is_packed(images) {
        true => fs::write(images.join(WHITEOUT), ""),
        false => Ok(()),
    }
}

/// Whether a directory of containerd's was removed while the runtime was running.
///
/// containerd removes it as soon as its client goes away. The runtime then makes the
/// directory again, and containerd would leave it. The checkpoint was published in the
/// directory that was removed.
pub(crate) fn was_made_again(images: &ImagePath) -> bool {
    is_packed(images) && images.join(UNPUBLISHED).exists()
}

/// Removes a directory of containerd's after a failure: see [`was_made_again`].
///
/// # Errors
/// It can't be removed.
pub(crate) fn remove_packed(images: &ImagePath) -> io::Result<()> {
    match is_packed(images).then(|| fs::remove_dir_all(&**images)) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether containerd packs this directory.
pub(crate) fn is_packed(images: &ImagePath) -> bool {
    is_temporary_checkpoint(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packed_directories_are_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, removed) in [("ctrd-checkpoint123", true), ("mine", false)] {
            let images = dir.path().join(name);
            fs::create_dir_all(images.join(UNPUBLISHED)).expect("mkdir");
            let images_path = ImagePath::of(Some(images.as_os_str()));
            assert_eq!(was_made_again(&images_path), removed, "{name}");
            for _ in 0..2 {
                remove_packed(&ImagePath::of(Some(images.as_os_str()))).expect("removed");
            }
            assert_eq!(!images.exists(), removed, "{name}");
        }
    }

    #[test]
    fn only_packed_directories_get_a_whiteout() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, marked) in [
            ("ctrd-checkpoint123", true),
            ("ctrd-checkpoint", false),
            ("ctrd-checkpoint-mine", false),
            ("mine", false),
        ] {
            let images = dir.path().join(name);
            fs::create_dir(&images).expect("mkdir");
            add_whiteout(&ImagePath::of(Some(images.as_os_str()))).expect("write");
            assert_eq!(images.join(WHITEOUT).exists(), marked, "{name}");
        }
    }
}
