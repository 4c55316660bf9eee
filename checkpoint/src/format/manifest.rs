//! The manifest of a checkpoint, `cedana-manifest.json`.
//!
//! ```text
//! format       1: a reader checks it first, and refuses a newer one
//! files        each file's name, kind, size and digest
//! machine      architecture, page size, CPU features, kernel
//! versions     of Cedana, CRIU and the runtime
//! container    its ID, image and OCI configuration
//! options      settings and flags of the checkpoint
//! cost         times and bytes
//! ```
//!
//! A directory without one is a checkpoint by stock runc or crun. A manifest is
//! untrusted input, so its size is limited, and [`Manifest::check`] verifies it before
//! it is used: names must be plain file names, and sizes must be consistent. Readers
//! ignore unknown keys; a change that they must not ignore raises `format`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pages::{MAX_FRAME, Summary};

/// The manifest's file name.
pub const NAME: &str = "cedana-manifest.json";

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Size limit of a manifest, in bytes. An entry has about 200 bytes and a process a
/// handful of files, so this is enough for fifty thousand processes.
const MAX_BYTES: u64 = 64 << 20;

/// The reason that a manifest can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    #[error("the checkpoint's {} cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a valid manifest.
    #[error("the checkpoint's {} is damaged: {why}; take the checkpoint again or restore another", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The fault.
        why: String,
    },
    /// A newer version wrote it.
    #[error("the checkpoint {} has format {found}, and this cedana-runc reads formats up to {FORMAT}: update it, or restore on the node that took the checkpoint", dir.display())]
    Newer {
        /// The checkpoint.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the version that wrote it.
    pub format: u32,
    /// The time of the checkpoint, in seconds since 1970 (UTC).
    pub created: u64,
    /// All files of the checkpoint but this one, by name.
    pub files: Vec<Entry>,
    /// The target of the `parent` link, if unchanged memory is in an earlier pre-dump: a
    /// path relative to the checkpoint's directory. The manifest does not list the
    /// pre-dump's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The machine that it was taken on.
    pub machine: Machine,
    /// The versions of the programs that took it.
    pub versions: Versions,
    /// The container.
    pub container: Container,
    /// Settings and flags of the checkpoint, by name.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// The cost of the checkpoint.
    pub cost: Cost,
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
    /// BLAKE3 in hexadecimal, of the whole file or, for a page file, of its trailer,
    /// which holds the digests of its frames.
    pub digest: String,
    /// The frames of a page file.
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
    /// A file that a runtime or CRIU wrote beside the images.
    Other,
}

/// The frames of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Bytes of the file that CRIU wrote.
    pub raw_size: u64,
    /// Raw bytes of each frame but the last.
    pub frame_size: u32,
    /// Number of frames.
    pub frames: u64,
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

/// The cost of a checkpoint. Times are in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Time for which the application was frozen, by CRIU's statistics. Absent if the
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
                frame_size: summary.frame_size,
                frames: summary.frames,
            }),
            ..Self::whole(name, kind, size, summary.table_digest)
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
        match self.kind {
            Kind::Pages => self.name.strip_suffix(".zst").unwrap_or(&self.name),
            _ => &self.name,
        }
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let wrong = |what: &str| Err(format!("file {name:?}: {what}"));
        if name.is_empty()
            || name.len() > 255
            || name.contains(['/', '\0'])
            || matches!(name.as_str(), "." | ".." | NAME)
        {
            return wrong("not a valid file name");
        }
        if self.hash().is_none() {
            return wrong("invalid digest");
        }
        match (self.kind, &self.pages) {
            (Kind::Pages | Kind::Plain, Some(pages)) => {
                if !is_pages(self.raw_name())
                    || (self.kind == Kind::Pages) != name.ends_with(".zst")
                {
                    return wrong("not the name of a page file");
                }
                if pages.frame_size == 0
                    || pages.frame_size > MAX_FRAME
                    || !pages.frame_size.is_multiple_of(4096)
                {
                    return wrong("invalid frame size");
                }
                if pages.frames != pages.raw_size.div_ceil(u64::from(pages.frame_size)) {
                    return wrong("the number of frames does not match the size");
                }
                if self.kind == Kind::Plain && pages.raw_size != self.size {
                    return wrong("its raw size differs from its size");
                }
                Ok(())
            }
            (Kind::Pages | Kind::Plain, None) => wrong("a page file without frames"),
            (_, Some(_)) => wrong("frames in a file that is not a page file"),
            (_, None) => Ok(()),
        }
    }
}

/// Whether this is CRIU's name of a page file: `pages-N.img`.
#[must_use]
pub fn is_pages(name: &str) -> bool {
    name.strip_prefix("pages-")
        .and_then(|rest| rest.strip_suffix(".img"))
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns a unique name for the checkpoint in `dir`: its manifest's digest.
///
/// # Errors
/// The manifest is missing or can't be read.
pub fn fingerprint(dir: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(dir.join(NAME))?
        .take(MAX_BYTES)
        .read_to_end(&mut text)?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

impl Manifest {
    /// Reads the manifest of the checkpoint in `dir`. `None` if there is none, because a
    /// stock runtime took the checkpoint.
    ///
    /// # Errors
    /// It can't be read, is damaged, or is newer than this version.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let file = dir.join(NAME);
        let mut text = Vec::new();
        let read =
            File::open(&file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { file, source }),
            Ok(_) => {}
        }
        Self::parse(&text).map(Some).map_err(|fault| match fault {
            Fault::Newer(found) => Error::Newer {
                dir: dir.to_owned(),
                found,
            },
            Fault::Invalid(why) => Error::Invalid { file, why },
        })
    }

    fn parse(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        if text.len() as u64 > MAX_BYTES {
            return Err(Fault::Invalid(format!("larger than {MAX_BYTES} bytes")));
        }
        let invalid = |error: serde_json::Error| Fault::Invalid(error.to_string());
        // The format is checked first, because the other keys may differ in a newer one.
        match serde_json::from_slice(text).map_err(invalid)? {
            Head { format: 0 } => return Err(Fault::Invalid("format 0".to_owned())),
            Head { format } if format > FORMAT => return Err(Fault::Newer(format)),
            Head { .. } => {}
        }
        let manifest: Self = serde_json::from_slice(text).map_err(invalid)?;
        manifest.check().map_err(Fault::Invalid)?;
        Ok(manifest)
    }

    /// Checks the names, digests and sizes of the files.
    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut raw_names = BTreeSet::new();
        for entry in &self.files {
            entry.check()?;
            // Raw names are compared, too, because two files may have the same one.
            if !names.insert(&entry.name) || !raw_names.insert(entry.raw_name()) {
                return Err(format!("it lists {:?} twice", entry.name));
            }
        }
        Ok(())
    }

    /// Returns the text of the manifest.
    ///
    /// # Errors
    /// It exceeds the size limit.
    pub fn render(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        match text.len() as u64 {
            ..=MAX_BYTES => Ok(text),
            length => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a manifest of {length} bytes"),
            )),
        }
    }

    /// Returns the entry of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.name == name)
    }
}

/// The fault of a manifest's text.
#[derive(Debug)]
enum Fault {
    Newer(u32),
    Invalid(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn pages() -> Entry {
        Entry::pages(
            "pages-1.img.zst",
            Kind::Pages,
            &Summary {
                raw_bytes: 9000,
                stored_bytes: 500,
                frame_size: 4096,
                frames: 3,
                table_digest: blake3::hash(b"trailer"),
            },
        )
    }

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            created: 1_700_000_000,
            files: vec![
                Entry::whole("core-1.img", Kind::Image, 3, blake3::hash(b"abc")),
                pages(),
            ],
            parent: None,
            machine: Machine::default(),
            versions: Versions::default(),
            container: Container {
                id: "c".to_owned(),
                image: None,
                spec: Some(serde_json::json!({"linux": {"resources": {"x": u64::MAX}}})),
            },
            options: [("level".to_owned(), Value::from(1))].into(),
            cost: Cost::default(),
        }
    }

    fn parse(manifest: &Manifest) -> Result<Manifest, Fault> {
        Manifest::parse(&manifest.render().expect("render"))
    }

    #[test]
    fn a_written_manifest_is_read_unchanged() {
        let written = manifest();
        assert_eq!(parse(&written).expect("parse"), written);
        assert_eq!(written.file("pages-1.img.zst"), Some(&pages()));
        assert_eq!(pages().raw_name(), "pages-1.img");
    }

    #[test]
    fn missing_newer_and_truncated_manifests() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(Manifest::read(dir.path()).expect("none"), None);
        let file = dir.path().join(NAME);
        fs::write(&file, r#"{"format": 7, "files": "otherwise"}"#).expect("write");
        let error = Manifest::read(dir.path()).expect_err("newer").to_string();
        assert!(
            error.contains("format 7") && error.contains("update"),
            "{error}"
        );
        fs::write(&file, "{\"format\": 1, \"files\"").expect("write");
        let error = Manifest::read(dir.path()).expect_err("cut").to_string();
        assert!(error.contains("is damaged"), "{error}");
    }

    #[test]
    fn unknown_keys_are_ignored() {
        let mut value = serde_json::to_value(manifest()).expect("value");
        value["cost"]["energy"] = Value::from(3);
        value["later"] = Value::from(true);
        let text = serde_json::to_vec(&value).expect("text");
        assert_eq!(Manifest::parse(&text).expect("parse"), manifest());
    }

    #[test]
    fn invalid_entries_are_refused() {
        let wrong = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            match parse(&manifest) {
                Err(Fault::Invalid(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        fn frames(m: &mut Manifest) -> &mut Pages {
            m.files[1].pages.as_mut().expect("pages")
        }
        wrong(|m| m.format = 0);
        wrong(|m| m.files[0].name = "../core-1.img".to_owned());
        wrong(|m| m.files[0].name = "..".to_owned());
        wrong(|m| m.files[0].name = NAME.to_owned());
        wrong(|m| m.files[0].name = String::new());
        wrong(|m| m.files[0].name = "x".repeat(256));
        wrong(|m| m.files[0].name = "pages-1.img.zst".to_owned());
        wrong(|m| m.files[0].name = "pages-1.img".to_owned());
        wrong(|m| m.files[0].digest = "abc".to_owned());
        wrong(|m| m.files[0].pages = m.files[1].pages);
        wrong(|m| m.files[1].name = "pages-x.img.zst".to_owned());
        wrong(|m| m.files[1].name = "pages-1.img".to_owned());
        wrong(|m| m.files[1].pages = None);
        wrong(|m| frames(m).frame_size = 0);
        wrong(|m| frames(m).frame_size = 5000);
        wrong(|m| frames(m).frame_size = 32 << 20);
        wrong(|m| frames(m).raw_size = u64::MAX);
        wrong(|m| frames(m).frames = 4);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&text);
        }

        #[test]
        fn no_damage_panics(at in 0usize..1500, byte in any::<u8>()) {
            let mut text = manifest().render().expect("render");
            let at = at % text.len();
            text[at] = byte;
            let _ = Manifest::parse(&text);
        }

        #[test]
        fn only_pages_n_img_is_a_page_file(name in "(pages-)?[0-9a]{0,3}(\\.img)?") {
            let expected = name.len() > 10 && name.starts_with("pages-") && name.ends_with(".img")
                && name[6..name.len() - 4].chars().all(|c| c.is_ascii_digit());
            prop_assert_eq!(is_pages(&name), expected);
        }
    }
}
