//! Where images are read from.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::opened::{OpenedDir, open_file};

/// A directory of images: one on disk, or the verified content of a checkpoint.
pub trait Images {
    /// The directory's path, for messages.
    fn path(&self) -> &Path;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// It is missing, not part of the checkpoint, or can't be read.
    fn image(&self, name: &str) -> io::Result<Box<dyn Read>>;

    /// The names of regular files, sorted, and their sizes.
    ///
    /// # Errors
    /// The directory can't be read.
    fn files(&self) -> io::Result<Vec<(String, u64)>>;

    /// The names of regular files, sorted.
    ///
    /// # Errors
    /// As for [`Self::files`].
    fn names(&self) -> io::Result<Vec<String>> {
        let files = self.files()?;
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }
}

/// A directory that this process or the kernel fills: the images of a dump that has not
/// ended, or a checkpoint's served view. Links are not followed.
impl Images for Path {
    fn path(&self) -> &Path {
        self
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(open_file(&self.join(name))?))
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        OpenedDir::open(self)?.files(|_| true)
    }

    /// Takes no system call for each file.
    fn names(&self) -> io::Result<Vec<String>> {
        OpenedDir::open(self)?.regular_names()
    }
}

/// A directory that this process fills, reached by its descriptor.
impl Images for OpenedDir {
    fn path(&self) -> &Path {
        OpenedDir::path(self)
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(self.file(name)?))
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        OpenedDir::files(self, |_| true)
    }
}

impl Images for PathBuf {
    fn path(&self) -> &Path {
        self
    }

    fn image(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.as_path().image(name)
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.as_path().files()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.as_path().names()
    }
}

/// Whether a file belongs to a checkpoint without a manifest: CRIU's images and
/// statistics, and the list of descriptors that runc and crun write.
pub(crate) fn is_criu(name: &str) -> bool {
    name.ends_with(".img") || matches!(name, "descriptors.json" | "stats-dump")
}
