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
    /// Its state forbids it.
    State,
    /// A directory has too little room.
    Full,
    /// The caller has cancelled it.
    Cancelled,
    /// The system failed.
    System,
}

/// The longest text, in characters: it must fit into a frame of the supervisor's protocol.
const MAX_TEXT: usize = 4000;

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
            text.push_str("...");
        }
        Self { kind, text }
    }
}
