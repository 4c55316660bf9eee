//! The cache of what restores of a checkpoint touched first.
//!
//! It can't be beside the checkpoint: containerd and Docker unpack a checkpoint
//! anew for each restore and delete that copy. So the node keeps it, under the
//! fingerprint of the checkpoint's manifest, which holds the digests of all files.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::lazy::{MAX_TOUCHES_BYTES, Touches};
use tempfile::NamedTempFile;

use crate::host::prune::prune;

const DIR: &str = "/var/lib/cedana/touched";

/// The most checkpoints it is kept of: the last that were restored.
const KEPT: usize = 64;

/// The pages that earlier restores of one checkpoint touched.
pub(super) struct TouchCache {
    path: PathBuf,
    earlier: Touches,
}

impl TouchCache {
    /// The cache of the checkpoint whose manifest has this fingerprint.
    pub(super) fn of(fingerprint: &str) -> Self {
        Self::known(Path::new(DIR), fingerprint)
    }

    fn known(dir: &Path, fingerprint: &str) -> Self {
        let path = dir.join(format!("{fingerprint}.json"));
        let mut text = Vec::new();
        // Before the first restore there is none.
        let _ =
            File::open(&path).and_then(|file| file.take(MAX_TOUCHES_BYTES).read_to_end(&mut text));
        let earlier = Touches::parse(&text);
        Self { path, earlier }
    }

    pub(super) fn earlier(&self) -> &Touches {
        &self.earlier
    }

    /// Adds what this restore touched.
    ///
    /// # Errors
    /// It can't be written. The next restore is as fast as this one, then.
    pub(super) fn add(mut self, touches: &Touches) -> io::Result<()> {
        let known = !self.earlier.is_empty();
        self.earlier.merge(touches);
        if self.earlier.is_empty() {
            return Ok(());
        }
        let dir = self.path.parent().unwrap_or(Path::new(DIR));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        // Whole or not at all; of two at once one is as good as the other.
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(&self.earlier.render())?;
        file.persist(&self.path)?;
        match known {
            true => Ok(()),
            // Every file there is the cache's: the draft of a killed writer, too.
            false => prune(dir, KEPT, |_| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One touch, as it is written.
    fn touch(address: u64) -> Touches {
        Touches::parse(format!(r#"{{"format":1,"touches":[[1,{address},5]]}}"#).as_bytes())
    }

    #[test]
    fn restores_of_one_checkpoint_add_up() {
        let home = tempfile::tempdir().expect("tempdir");
        let dir = home.path().join("touched");
        let of = || TouchCache::known(&dir, "one");
        of().add(&Touches::default()).expect("nothing to keep");
        assert!(!dir.exists());
        of().add(&touch(0)).expect("kept");
        of().add(&touch(1 << 20)).expect("kept");
        let mut both = touch(0);
        both.merge(&touch(1 << 20));
        assert_eq!(*of().earlier(), both);
        // Another checkpoint's are its own.
        assert!(TouchCache::known(&dir, "two").earlier().is_empty());
    }
}
