//! Why a dump or a restore failed.

use serde::{Deserialize, Serialize};

/// A failed call. The text says what, why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// For programs.
    pub kind: Kind,
    /// For people.
    pub text: String,
}

/// What kind of failure it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
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
