//! The ID of a container.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::path::Path;

/// A container's ID that is one component of a path: runtimes name the
/// container's state directory by it, and we name log files by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerId(String);

impl ContainerId {
    /// `None` if the text is no path component.
    pub(crate) fn parse(id: &OsStr) -> Option<Self> {
        let id = id.to_str()?;
        let is_component = !id.is_empty() && !id.contains(['/', '\0']) && id != "." && id != "..";
        is_component.then(|| Self(id.to_owned()))
    }
}

impl Deref for ContainerId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for ContainerId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl AsRef<OsStr> for ContainerId {
    fn as_ref(&self) -> &OsStr {
        OsStr::new(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
