//! Directories and files of checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{command, unique};

/// The name of the manifest in a checkpoint.
pub const MANIFEST: &str = "cedana-manifest.json";

/// A directory, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Creates it.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        Self::below("/var/tmp/cedana-tests", label)
    }

    /// Creates it in `/etc/criu`, where a container's annotation `org.criu.config` may
    /// name files.
    #[track_caller]
    pub fn of_criu(label: &str) -> Self {
        Self::below("/etc/criu", label)
    }

    #[track_caller]
    fn below(place: &str, label: &str) -> Self {
        let path = Path::new(place).join(unique(label));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// A path in it.
    #[track_caller]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its path.
    #[track_caller]
    pub fn text(&self) -> String {
        self.0.display().to_string()
    }

    /// The names of its entries.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap_or_else(|e| panic!("{}: {e}", self.text()));
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The largest page file in it.
    pub fn largest_pages(&self) -> PathBuf {
        let pages = self.names().into_iter();
        pages
            .filter(|name| name.starts_with("pages-") && name.ends_with(".img.zst"))
            .map(|name| self.file(&name))
            .max_by_key(|path| size(path))
            .unwrap_or_else(|| panic!("no page file: {:?}", self.names()))
    }

    /// The manifest in it.
    #[track_caller]
    pub fn manifest(&self) -> Value {
        json(&read(&self.file(MANIFEST)))
    }

    /// A copy of it.
    #[track_caller]
    pub fn copy(&self, label: &str) -> Self {
        let copy = Self::new(label);
        let from = format!("{}/.", self.text());
        command("cp", &["-a", &from, &copy.text()]).ok();
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file's size; 0 if there is none.
#[track_caller]
pub fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}

/// A file's text.
#[track_caller]
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of a JSON text.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Changes one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
