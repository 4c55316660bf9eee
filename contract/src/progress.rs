//! The progress of a checkpoint, as messages to a program.
//!
//! `cedana-runc checkpoint --progress-fd N` writes one JSON object a line to the
//! descriptor N. The keys are documented in cedana-runc(8).

use serde::{Deserialize, Serialize};

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The current phase.
    pub phase: Phase,
    /// Microseconds since the command began.
    pub elapsed_us: u64,
    /// Bytes of memory that CRIU has written.
    pub raw_bytes: u64,
    /// Bytes of memory that are stored, before compression.
    pub done_bytes: u64,
    /// The same bytes as stored.
    pub stored_bytes: u64,
}

/// A phase of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// CRIU writes images; the container is frozen.
    Dump,
    /// CRIU is done; the rest of its page images is being compressed.
    Compress,
    /// The files are being synced to disk.
    Sync,
    /// The checkpoint is complete.
    Done,
    /// A phase of a later version. All of them follow [`Phase::Dump`].
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_the_documented_one() {
        let message = Message {
            phase: Phase::Compress,
            elapsed_us: 1,
            raw_bytes: 2,
            done_bytes: 3,
            stored_bytes: 4,
        };
        let text = serde_json::to_string(&message).expect("JSON");
        assert_eq!(
            text,
            r#"{"phase":"compress","elapsed_us":1,"raw_bytes":2,"done_bytes":3,"stored_bytes":4}"#
        );
        assert_eq!(
            serde_json::from_str::<Message>(&text).expect("a message"),
            message
        );
    }

    #[test]
    fn phases_of_later_versions_are_read() {
        let text = r#"{"phase":"sign","elapsed_us":1,"raw_bytes":2,"done_bytes":3,"stored_bytes":4,"more":5}"#;
        let message: Message = serde_json::from_str(text).expect("a message");
        assert_eq!(message.phase, Phase::Unknown);
    }
}
