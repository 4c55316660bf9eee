//! The reason why a checkpoint could never be restored.

use std::fmt;

/// Why a checkpoint could never be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// A sentence without its full stop.
    what: String,
    /// What to do before the checkpoint.
    remedy: String,
}

impl Doubt {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}
