//! The keys of a manifest.

use std::collections::BTreeMap;

use cedana_store::list::SUFFIX;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::pages::Summary;

/// The manifest's file name.
pub const NAME: &str = "cedana-manifest.json";

/// The name under which CRIU looks for an earlier pre-dump (CRIU's `CR_PARENT_LINK`).
pub(crate) const PARENT: &str = "parent";

/// The format of a checkpoint without an archive.
pub const FORMAT: u32 = 1;

/// The format of a checkpoint with an archive of TCP connections. Versions that don't
/// know the archive refuse it.
pub const WITH_STREAMS: u32 = 2;

/// The format of a checkpoint whose memory is in the node's store, and the newest that
/// this version reads. Versions that don't know the store refuse it.
pub const WITH_STORE: u32 = 3;

/// A manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format: [`Manifest::format_of`] its files.
    pub format: u32,
    /// The time of the checkpoint, in seconds since 1970 (UTC).
    pub created: u64,
    /// All files of the checkpoint but this one, by name.
    pub files: Vec<Entry>,
    /// The target of the `parent` link, if unchanged memory is in an earlier pre-dump:
    /// `../NAME`, a directory beside the checkpoint's. The manifest does not list the
    /// pre-dump's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The store that has the memory. Present if there are entries of [`Kind::Chunks`],
    /// and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreReference>,
    /// The machine that it was taken on.
    pub machine: Machine,
    /// The versions of the programs that took it.
    pub versions: Versions,
    /// The container. Empty for a process.
    #[serde(default, skip_serializing_if = "Container::is_none")]
    pub container: Container,
    /// The process, if it is no container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Settings and flags of the checkpoint, by name.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// The cost of the checkpoint.
    pub cost: Cost,
    /// [`Manifest::sign`]'s, in hexadecimal. Readers without the key ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// The checkpoint in the catalogue of a store, which keeps its memory while it has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReference {
    /// The text of a [`CheckpointId`](cedana_store::catalogue::CheckpointId).
    pub id: String,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in the checkpoint's directory.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 in hexadecimal: of the whole file or, for a page file in frames, of its
    /// trailer, which holds the digests of its frames.
    pub digest: String,
    /// The memory of a page file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<Pages>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An image, as CRIU wrote it.
    Image,
    /// Memory in compressed frames: `pages-N.img.zst`.
    Pages,
    /// Memory as CRIU wrote it: `pages-N.img`, with its trailer beside it in
    /// `pages-N.img.table`.
    Plain,
    /// The trailer of a plain page file.
    Table,
    /// A list of the chunks in the store that are the memory: `pages-N.img.chunks`.
    Chunks,
    /// The images of TCP connections in one archive: `tcp-streams.tar`.
    Streams,
    /// A file that a runtime or CRIU wrote beside the images.
    Other,
}

/// The memory of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Bytes of the file that CRIU wrote.
    pub raw_size: u64,
    /// The frames that they are stored in. A list of chunks has none.
    #[serde(flatten)]
    pub frames: Option<Frames>,
}

/// The frames of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Raw bytes of each frame but the last.
    pub frame_size: u32,
    /// Their number.
    #[serde(rename = "frames")]
    pub count: u64,
}

/// The machine that a checkpoint was taken on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The architecture's name in Rust: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Size of a memory page in bytes.
    pub page_size: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The `flags` or `Features` in /proc/cpuinfo.
    #[serde(default)]
    pub cpu_features: Vec<String>,
}

/// The versions of the programs that took a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This project's.
    pub cedana: String,
    /// CRIU's.
    pub criu: String,
    /// The runtime's: the first line of its `--version`.
    pub runtime: String,
}

/// The container that a checkpoint was taken of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// The name of its image, if the engine sets it in an annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its OCI configuration (the bundle's config.json).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
}

impl Container {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The process that a checkpoint was taken of, with its children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The name that the caller gave, such as a job's ID.
    pub name: String,
    /// Its PID.
    pub pid: i32,
    /// Its command line.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its effective user.
    pub uid: u32,
    /// The number of processes.
    pub processes: usize,
    /// Whether the terminal of its session was left out, so that a restore needs
    /// another one: `tty[RDEV:DEV]`, CRIU's key of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<String>,
    /// CRIU's keys of descriptors that the caller of a restore replaces, by number: pipes,
    /// which are not in the checkpoint, and the file of a supervisor, which is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inherited: BTreeMap<i32, String>,
}

/// The cost of a checkpoint. Times are in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Time for which the application was frozen, by CRIU's statistics, and for which it
    /// was paused and waited for the engine. Absent if the
    /// container was stopped: then it was frozen until the checkpoint was on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
    /// From the runtime's start until CRIU was done.
    pub dump_us: u64,
    /// From the runtime's start until only the manifest and the renaming were left.
    pub total_us: u64,
    /// Bytes of memory that CRIU wrote.
    pub raw_bytes: u64,
    /// Bytes of that memory as stored.
    pub stored_bytes: u64,
}

impl Entry {
    /// Returns the entry of a file with a digest of the whole file.
    #[must_use]
    pub fn whole(name: &str, kind: Kind, size: u64, digest: blake3::Hash) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            size,
            digest: digest.to_hex().to_string(),
            pages: None,
        }
    }

    /// Returns the entry of a page file. For a plain one, `summary` includes the trailer,
    /// which is a separate file.
    #[must_use]
    pub fn pages(name: &str, kind: Kind, summary: &Summary) -> Self {
        let size = match kind {
            Kind::Plain => summary.raw_bytes,
            _ => summary.stored_bytes,
        };
        Self {
            pages: Some(Pages {
                raw_size: summary.raw_bytes,
                frames: Some(Frames {
                    frame_size: summary.frame_size,
                    count: summary.frames,
                }),
            }),
            ..Self::whole(name, kind, size, summary.table_digest)
        }
    }

    /// Returns the entry of a list of chunks: its bytes, and the bytes of memory that the
    /// list is of.
    #[must_use]
    pub fn chunks(name: &str, list: &[u8], raw_bytes: u64) -> Self {
        let digest = blake3::hash(list);
        Self {
            pages: Some(Pages {
                raw_size: raw_bytes,
                frames: None,
            }),
            ..Self::whole(name, Kind::Chunks, list.len() as u64, digest)
        }
    }

    /// Returns the digest. [`Manifest::read`] has checked that it is valid.
    #[must_use]
    pub fn hash(&self) -> Option<blake3::Hash> {
        blake3::Hash::from_hex(&self.digest).ok()
    }

    /// Returns the name under which CRIU writes and reads the file.
    #[must_use]
    pub fn raw_name(&self) -> &str {
        let suffix = match self.kind {
            Kind::Pages => ".zst",
            Kind::Chunks => SUFFIX,
            _ => return &self.name,
        };
        self.name.strip_suffix(suffix).unwrap_or(&self.name)
    }
}

impl Manifest {
    /// Returns the format of a checkpoint with these files: the oldest whose readers
    /// understand them.
    #[must_use]
    pub fn format_of(files: &[Entry]) -> u32 {
        let formats = files.iter().map(|entry| match entry.kind {
            Kind::Chunks => WITH_STORE,
            Kind::Streams => WITH_STREAMS,
            _ => FORMAT,
        });
        formats.max().unwrap_or(FORMAT)
    }

    /// Returns a manifest that says nothing but that these are its files.
    #[must_use]
    pub fn of(files: Vec<Entry>) -> Self {
        Self {
            format: Self::format_of(&files),
            created: 0,
            files,
            parent: None,
            store: None,
            machine: Machine::default(),
            versions: Versions::default(),
            container: Container::default(),
            process: None,
            options: BTreeMap::new(),
            cost: Cost::default(),
            signature: None,
        }
    }

    /// Returns what it says of the checkpoint, without the files: what a catalogue keeps.
    #[must_use]
    pub fn details(&self) -> Value {
        let mut details = serde_json::to_value(self).unwrap_or_default();
        if let Some(details) = details.as_object_mut() {
            for key in ["files", "signature", "store"] {
                details.remove(key);
            }
        }
        details
    }

    /// Returns the entry of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.name == name)
    }
}
