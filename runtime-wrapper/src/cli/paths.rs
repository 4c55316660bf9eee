//! The directories that a caller names.
//!
//! Both are absolute: they are used by processes with other working directories (the
//! runtime, CRIU, the page source) and appear in messages. A path of theirs is not
//! followed or checked here.

use std::ffi::OsStr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A checkpoint's directory (`--image-path`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImagePath(PathBuf);

impl ImagePath {
    /// The flag's value, or the default of runc and crun: `checkpoint` in the working
    /// directory.
    pub(crate) fn of(flag: Option<&OsStr>) -> Self {
        Self(absolute(flag, "checkpoint"))
    }
}

impl Deref for ImagePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// An OCI bundle's directory (`--bundle`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BundlePath(PathBuf);

impl BundlePath {
    /// The flag's value, or the default of runc and crun: the working directory.
    pub(crate) fn of(flag: Option<&OsStr>) -> Self {
        Self(absolute(flag, "."))
    }
}

impl Deref for BundlePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// The absolute path of a flag's value. It stays relative if the working directory
/// was removed, in which case nothing is found there.
pub(super) fn absolute(flag: Option<&OsStr>, default: &str) -> PathBuf {
    let path = flag
        .filter(|path| !path.is_empty())
        .unwrap_or(OsStr::new(default));
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_have_the_runtimes_defaults() {
        let here = std::env::current_dir().expect("a working directory");
        let images = |flag: Option<&str>| ImagePath::of(flag.map(OsStr::new));
        assert_eq!(*images(Some("/i")), *Path::new("/i"));
        for default in [None, Some("")] {
            assert_eq!(*images(default), *here.join("checkpoint"));
        }
        assert_eq!(*BundlePath::of(None), *here);
        let bundle = BundlePath::of(Some(OsStr::new("b")));
        assert_eq!(*bundle, *here.join("b"));
    }
}
