//! Attributes of processes and their sockets that CRIU leaves out, in `cedana-attributes.json`.
//!
//! ```text
//! dump     /proc, sched_getaffinity(2), ioprio_get(2) ─► the file, which the manifest lists
//! restore  the file ─► the tasks of these IDs, once CRIU has restored them
//! ```
//!
//! A task is a thread; its ID is the one in the container's PID namespace, which it has
//! again after a restore. Only what a program or its administrator has set is recorded:
//! what is as for any other task here comes from the restored container. A checkpoint
//! without the file, such as the stock runtime's, has nothing to put back.
//!
//! The file is untrusted input. What a process of the container could not set itself is
//! not put back ([`Privileges`]), and the kernel keeps affinity within the container's
//! cpuset.

mod cpus;
mod put_back;
mod record;
mod sockets;

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use sockets::Socket;

use crate::format::contents::{Contents, Node};

pub use put_back::{Failed, Privileges};

/// The file's name.
pub const NAME: &str = "cedana-attributes.json";

/// The newest version of the file that is read.
const VERSION: u32 = 1;

/// The most bytes of the file: some hundred for each of a hundred thousand threads.
const MAX_BYTES: usize = 16 << 20;

/// What is recorded of a container's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    version: u32,
    tasks: Vec<Task>,
    #[serde(default)]
    sockets: Vec<Socket>,
}

/// One thread. What is `None` is as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    /// Its ID in the container's PID namespace.
    id: u32,
    /// The CPUs that it may run on (sched_setaffinity(2)), as the kernel lists them:
    /// `0-3,8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpus: Option<String>,
    /// ioprio_set(2)'s number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    io_priority: Option<u16>,
    /// Nanoseconds (`PR_SET_TIMERSLACK`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer_slack: Option<u64>,
    /// The process's mappings that a core dump has (core(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    core_dump_filter: Option<u32>,
    /// The nice value of the session's autogroup (sched(7)), of the session's leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    autogroup_nice: Option<i8>,
}

/// Why a file of attributes is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It has no such content.
    #[error("{NAME} is damaged: {0}")]
    Malformed(String),
    /// It was written by a newer version.
    #[error("{NAME} has version {found}, and this version reads up to {VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
}

impl Attributes {
    /// Those of a checkpoint; `None` if it has none.
    ///
    /// # Errors
    /// The file is damaged or newer.
    pub fn read(contents: &Contents) -> Result<Option<Self>, Error> {
        match contents.directory.get(NAME) {
            Some(Node::File { bytes, .. }) => Self::parse(bytes).map(Some),
            Some(_) => Err(Error::Malformed("it is too large".to_owned())),
            None => Ok(None),
        }
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// It is damaged or newer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Malformed("it is too large".to_owned()));
        }
        let malformed = |error: serde_json::Error| Error::Malformed(error.to_string());
        let versioned: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
        match versioned.version {
            ..=VERSION => serde_json::from_slice(bytes).map_err(malformed),
            found => Err(Error::Newer { found }),
        }
    }

    /// Writes the file into the directory of CRIU's images, if there is anything to put
    /// back.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, images: &Path) -> io::Result<()> {
        match self.tasks.is_empty() && self.sockets.is_empty() {
            true => Ok(()),
            false => fs::write(images.join(NAME), serde_json::to_vec(self)?),
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("tempdir");
        let attributes = Attributes {
            version: VERSION,
            tasks: vec![Task {
                id: 7,
                cpus: Some("0-3,8".to_owned()),
                io_priority: Some(2 << 13 | 6),
                ..Task::default()
            }],
            sockets: vec![Socket::default()],
        };
        attributes.write(dir.path()).expect("written");
        let bytes = fs::read(dir.path().join(NAME)).expect("read");
        assert_eq!(Attributes::parse(&bytes).expect("parsed"), attributes);
    }

    #[test]
    fn nothing_to_put_back_is_no_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let none = Attributes {
            version: VERSION,
            tasks: Vec::new(),
            sockets: Vec::new(),
        };
        none.write(dir.path()).expect("nothing written");
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn a_newer_file_is_told_from_a_damaged_one() {
        let newer = br#"{"version": 2, "tasks": {"of": "another kind"}}"#;
        let refused = Attributes::parse(newer).expect_err("refused");
        assert!(matches!(refused, Error::Newer { found: 2 }), "{refused}");
        let damaged = br#"{"version": 1, "tasks": {"of": "another kind"}}"#;
        let refused = Attributes::parse(damaged).expect_err("refused");
        assert!(matches!(refused, Error::Malformed(_)), "{refused}");
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(bytes: Vec<u8>, text in "\\{\"version\":[0-9]{1,12},\"tasks\":\\[\\{\"id\":-?[0-9]{0,11},\"cpus\":\"[-0-9,]{0,20}\"\\}\\]\\}") {
            let _ = Attributes::parse(&bytes);
            if let Ok(attributes) = Attributes::parse(text.as_bytes()) {
                for task in &attributes.tasks {
                    let _ = task.cpus.as_deref().map(cpus::parse);
                }
            }
        }
    }
}
