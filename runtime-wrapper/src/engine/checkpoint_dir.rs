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

use crate::cli::Request;

const WHITEOUT: &str = ".wh.cedana";

/// The directory in which the runtime writes, until the checkpoint is published
/// (`cedana_checkpoint::format::publish`).
const UNPUBLISHED: &str = ".cedana-new";

/// Adds a whiteout to a checkpoint that containerd packs.
///
/// # Errors
/// The whiteout can't be written.
pub(crate) fn add_whiteout(request: &Request) -> io::Result<()> {
    match is_packed(request) {
        true => fs::write(request.images.join(WHITEOUT), ""),
        false => Ok(()),
    }
}

/// Whether a directory of containerd's was removed while the runtime was running.
///
/// containerd removes it as soon as its client goes away. The runtime then makes the
/// directory again, and containerd would leave it. The checkpoint was published in the
/// directory that was removed.
pub(crate) fn was_made_again(request: &Request) -> bool {
    is_packed(request) && request.images.join(UNPUBLISHED).exists()
}

/// Removes a directory of containerd's after a failure: see [`was_made_again`].
///
/// # Errors
/// It can't be removed.
pub(crate) fn remove_packed(request: &Request) -> io::Result<()> {
    match is_packed(request).then(|| fs::remove_dir_all(&*request.images)) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether containerd packs the checkpoint's directory.
pub(crate) fn is_packed(request: &Request) -> bool {
    request.archive_name().is_none() && is_temporary_checkpoint(&request.images)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::{Invocation, parse};

    fn request(flag: &str, images: &Path) -> Request {
        let flag = format!("--{flag}={}", images.display());
        let line = ["checkpoint".into(), flag.into(), "c".into()];
        match parse(&line) {
            Ok(Invocation::Checkpoint(request)) => request,
            _ => panic!("no checkpoint: {}", images.display()),
        }
    }

    #[test]
    fn only_packed_directories_are_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, removed) in [("ctrd-checkpoint123", true), ("mine", false)] {
            let images = dir.path().join(name);
            fs::create_dir_all(images.join(UNPUBLISHED)).expect("mkdir");
            let request = request("image-path", &images);
            assert_eq!(was_made_again(&request), removed, "{name}");
            for _ in 0..2 {
                remove_packed(&request).expect("removed");
            }
            assert_eq!(!images.exists(), removed, "{name}");
        }
    }

    #[test]
    fn only_packed_directories_get_a_whiteout() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (flag, name, marked) in [
            ("image-path", "ctrd-checkpoint123", true),
            ("image-path", "ctrd-checkpoint", false),
            ("image-path", "ctrd-checkpoint-mine", false),
            ("image-path", "mine", false),
            ("archive-dir", "ctrd-checkpoint456", false),
        ] {
            let images = dir.path().join(name);
            fs::create_dir(&images).expect("mkdir");
            add_whiteout(&request(flag, &images)).expect("write");
            assert_eq!(images.join(WHITEOUT).exists(), marked, "{name}");
        }
    }
}
