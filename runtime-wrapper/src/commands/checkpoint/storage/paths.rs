//! The paths of a checkpoint that is being taken, as the runtime and CRIU are given them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Storage;
use crate::cli::Request;

/// Paths for the runtime and CRIU.
pub(in crate::commands::checkpoint) struct Paths {
    images: PathBuf,
    /// CRIU's working directory, with its log.
    pub(in crate::commands::checkpoint) work: PathBuf,
    work_flag: bool,
    parent: Option<PathBuf>,
}

impl Paths {
    /// The directory that CRIU writes images to.
    pub(in crate::commands::checkpoint) fn images(&self) -> &Path {
        &self.images
    }

    /// The runtime's flags for these paths.
    pub(in crate::commands::checkpoint) fn flags(&self) -> Vec<(&'static str, &OsStr)> {
        let mut flags = vec![("image-path", self.images.as_os_str())];
        if self.work_flag {
            flags.push(("work-path", self.work.as_os_str()));
        }
        if let Some(parent) = &self.parent {
            flags.push(("parent-path", parent.as_os_str()));
        }
        flags
    }
}

impl Storage<'_> {
    pub(in crate::commands::checkpoint) fn paths(&self, request: &Request) -> Paths {
        let images = self.images();
        let shown = &*request.images;
        let work = request.work_path();
        let within = work == shown;
        Paths {
            work_flag: within
                && request
                    .value("work-path")
                    .is_some_and(|path| !path.is_empty()),
            work: if within { images.clone() } else { work },
            // The parent is relative to the images, which are one directory further
            // down until they are published.
            parent: parent(request).map(|path| match images == shown {
                true => path.to_owned(),
                false => Path::new("..").join(path),
            }),
            images,
        }
    }
}

/// The pre-dump that unchanged memory is in.
pub(super) fn parent(request: &Request) -> Option<&Path> {
    let parent = request.value("parent-path")?;
    (!parent.is_empty()).then(|| Path::new(parent))
}
