//! IDs of jobs.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// The length limit, in bytes: the ID is part of the path of a socket, which the kernel
/// limits to 107 bytes.
const MAX_LENGTH: usize = 64;

/// A job's ID, unique among its owner's jobs. It is safe as a file's name and needs no
/// quotes in a shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

/// The text is not a valid ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid job ID: an ID has 1 to {MAX_LENGTH} letters, digits, \".\", \"_\" or \"-\", and begins with a letter or digit"
)]
pub struct InvalidId {
    text: String,
}

impl JobId {
    /// Parses an ID.
    ///
    /// # Errors
    /// The text is empty, too long, or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let valid = text.len() <= MAX_LENGTH
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if valid {
            return Ok(Self(text.to_owned()));
        }
        let mut text: String = text.chars().take(MAX_LENGTH).collect();
        if text.len() == MAX_LENGTH {
            text.push_str("...");
        }
        Err(InvalidId { text })
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl Deref for JobId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_safe_name() {
        let longest = "a".repeat(MAX_LENGTH);
        for id in ["example_job", "a", "7.x-y", &longest] {
            assert_eq!(&*JobId::parse(id).expect(id), id);
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for id in [
            "", ".", "..", "../x", "a/b", "-a", "_a", "a b", "ö", "a\0", &too_long,
        ] {
            let error = JobId::parse(id).expect_err(id).to_string();
            assert!(error.contains("letters, digits"), "{error}");
        }
        assert!(serde_json::from_str::<JobId>("\"..\"").is_err());
    }
}
