//! Values that a container's annotation may only turn down.
//!
//! Annotations may come from users who do not administer the node. For these settings
//! the node's value, from its file, its environment or the built-in default, is the
//! limit.

use std::fmt;
use std::time::Duration;

use crate::text::Text;
use crate::{Compression, Doubtful, Mode, ResumeEarly, Storage};

/// A value that a container may only turn down.
pub(crate) trait Limited: Copy + Text {
    /// Whether this value asks no more of the node than `limit`, and skips no check
    /// that `limit` makes.
    fn is_within(self, limit: Self) -> bool;
}

/// A switch whose `true` makes CRIU tolerate more.
impl Limited for bool {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// A compression level.
impl Limited for i32 {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// A size in bytes.
impl Limited for u64 {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// A time limit in whole seconds.
impl Limited for Duration {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// An early resume can thwart a client that paused the task for a reason of its own.
impl Limited for ResumeEarly {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// A warning is weaker than a refusal.
impl Limited for Doubtful {
    fn is_within(self, limit: Self) -> bool {
        self <= limit
    }
}

/// Compression takes processor time, and the lack of it takes space. So a node that
/// has decided for one of them has the last word, and `auto` leaves it to the
/// container.
impl Limited for Compression {
    fn is_within(self, limit: Self) -> bool {
        limit == Self::Auto || self == limit
    }
}

/// Memory in the store takes space that the engine's quotas do not see, and memory in
/// the checkpoint takes it again for each one. So a node that has decided has the last
/// word, as for compression.
impl Limited for Storage {
    fn is_within(self, limit: Self) -> bool {
        limit == Self::Auto || self == limit
    }
}

/// A lazy restore keeps a process and its buffers on the node, beside the container.
impl Limited for Mode {
    fn is_within(self, limit: Self) -> bool {
        self == Self::Eager || self == limit
    }
}

/// A warning: an annotation or a user's file asked for more than the node allows, and the
/// node's value stays in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The annotation, or the file and the setting.
    pub(crate) name: String,
    /// Its value.
    pub(crate) asked: String,
    /// The node's value.
    pub(crate) limit: String,
    /// The setting.
    pub(crate) key: &'static str,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            asked,
            limit,
            key,
        } = self;
        write!(
            f,
            "{name}: {asked:?} is beyond the node's limit {limit:?}, which is used instead; to allow it, set {key} in config.toml"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weaker_choices_exceed_stricter_ones() {
        assert!(!ResumeEarly::Container.is_within(ResumeEarly::Certain));
        assert!(ResumeEarly::Never.is_within(ResumeEarly::Certain));
        assert!(!Doubtful::Warn.is_within(Doubtful::Refuse));
        assert!(Doubtful::Refuse.is_within(Doubtful::Warn));
        assert!(!Mode::Lazy.is_within(Mode::Eager));
        assert!(Mode::Eager.is_within(Mode::Lazy));
        for choice in [Compression::None, Compression::Zstd, Compression::Auto] {
            assert!(choice.is_within(Compression::Auto));
            assert!(choice.is_within(choice));
        }
        assert!(!Compression::Zstd.is_within(Compression::None));
        assert!(!Compression::None.is_within(Compression::Zstd));
    }
}
