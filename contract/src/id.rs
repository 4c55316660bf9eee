//! IDs that engines choose, and that become parts of paths.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::path::Path;

/// An ID that is one path component: runtimes name a container's state directory by
/// its ID, `cedana-runc` log files, and the shim the files of an exec process.
fn is_component(id: &str) -> bool {
    !id.is_empty() && !id.contains(['/', '\0']) && id != "." && id != ".."
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// `None` if the text is no path component.
            pub fn parse(id: &str) -> Option<Self> {
                is_component(id).then(|| Self(id.to_owned()))
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(&self.0)
            }
        }

        impl AsRef<OsStr> for $name {
            fn as_ref(&self) -> &OsStr {
                OsStr::new(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A container's ID.
    ContainerId
}

id! {
    /// The ID of an exec process, unique within its container.
    ExecId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_path_component() {
        for id in ["c1", "a.b", "...", "-x", "ö"] {
            assert_eq!(ContainerId::parse(id).as_deref(), Some(id));
        }
        for id in ["", ".", "..", "a/b", "/a", "a/", "a\0b"] {
            assert_eq!(ExecId::parse(id), None, "{id:?}");
        }
    }
}
