//! Why a dump or a restore failed.

/// A failed call. The text says what, why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// What kind of failure it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request is not valid.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It is there already.
    Exists,
    /// The caller may not do it.
    Denied,
    /// Its state forbids it.
    State,
    /// A directory has too little room.
    Full,
    /// The caller has cancelled it.
    Cancelled,
    /// The system failed.
    System,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}
