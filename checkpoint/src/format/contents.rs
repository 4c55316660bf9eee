//! The contents of a stored checkpoint, as the directory that CRIU wrote.
//!
//! With a manifest, only the files that it lists are part of the checkpoint, and their
//! digests are compared: those of small files and of page files' trailers here, those of
//! frames when they are read. Without a manifest the files are unchanged.
//!
//! A parent (an earlier pre-dump, with the memory that has not changed since) is a
//! subdirectory, which CRIU finds under the name `parent`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Error;
use super::manifest::{Kind, Manifest};
use super::pages::{Reader, open_regular};
use crate::images;
use crate::images::forked;
use crate::images::verify::check_pagemaps;

/// The name under which CRIU looks for a parent (CRIU's `CR_PARENT_LINK`).
const PARENT: &str = "parent";

/// Maximum length of a chain of parents. A real chain has a handful of pre-dumps. The
/// limit ends a chain that leads back to itself.
const MAX_PARENTS: usize = 64;

/// A directory: entries by name.
pub type Directory = BTreeMap<String, Node>;

/// One entry of a directory.
#[derive(Debug)]
pub enum Node {
    /// A file that is stored unchanged.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A file whose content is replaced for CRIU.
    Edited {
        /// The path of the stored file.
        path: PathBuf,
        /// The new content.
        bytes: Vec<u8>,
    },
    /// A page file.
    Pages {
        /// The reader of its raw bytes.
        reader: Reader,
        /// Whether CRIU will read it page by page, as for a process that shares memory
        /// with its parent, and not in long runs.
        by_page: bool,
    },
    /// A subdirectory.
    Directory(Directory),
}

/// Opens a checkpoint with a manifest, and verifies everything but the frames.
///
/// # Errors
/// A file is missing or damaged; the error names it.
pub fn open(dir: &Path, manifest: &Manifest) -> Result<Directory, Error> {
    ours(dir, manifest, MAX_PARENTS)
}

fn ours(dir: &Path, manifest: &Manifest, parents: usize) -> Result<Directory, Error> {
    let mut directory = Directory::new();
    for entry in &manifest.files {
        let path = dir.join(&entry.name);
        if matches!(entry.kind, Kind::Image | Kind::Other) {
            compare(&path, entry.size, entry.hash())?;
            directory.insert(entry.name.clone(), Node::File { path });
        }
    }
    let forked = forked::pages(dir)?;
    for entry in &manifest.files {
        let path = dir.join(&entry.name);
        let reader = match entry.kind {
            Kind::Pages => Reader::open(&path, entry.hash())?,
            Kind::Plain => {
                let table = dir.join(format!("{}.table", entry.name));
                Reader::open_plain(&path, &table, entry.hash())?
            }
            // A table was opened with its page file.
            Kind::Image | Kind::Other | Kind::Table => continue,
        };
        if entry.pages.map(|pages| pages.raw_size) != Some(reader.table().raw_bytes()) {
            return Err(Error::Changed { file: path });
        }
        let by_page = forked.contains(entry.raw_name());
        let node = Node::Pages { reader, by_page };
        directory.insert(entry.raw_name().to_owned(), node);
    }
    if !directory.contains_key("inventory.img") {
        let dir = dir.to_owned();
        return Err(images::Error::NoInventory { dir }.into());
    }
    check_pagemaps(dir, |file| match directory.get(file) {
        Some(Node::Pages { reader, .. }) => Some(reader.table().raw_bytes()),
        _ => None,
    })?;
    if let Some(parent) = &manifest.parent {
        let parent = any(&dir.join(parent), parents)?;
        directory.insert(PARENT.to_owned(), Node::Directory(parent));
    }
    Ok(directory)
}

/// Opens a parent, which may have a manifest or not.
fn any(dir: &Path, parents: usize) -> Result<Directory, Error> {
    let Some(parents) = parents.checked_sub(1) else {
        return Err(Error::TooManyParents {
            dir: dir.to_owned(),
        });
    };
    if let Some(manifest) = Manifest::read(dir)? {
        return ours(dir, &manifest, parents);
    }
    let unreadable = |source| images::Error::Directory {
        dir: dir.to_owned(),
        source,
    };
    let mut directory = Directory::new();
    for entry in dir.read_dir().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        // CRIU's file names are ASCII, so other files are not CRIU's.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name == PARENT {
            directory.insert(name, Node::Directory(any(&path, parents)?));
        } else if entry.metadata().map_err(unreadable)?.is_file() {
            directory.insert(name, Node::File { path });
        }
    }
    Ok(directory)
}

/// Compares a file's size and digest with those in the manifest.
fn compare(path: &Path, size: u64, digest: Option<blake3::Hash>) -> Result<(), Error> {
    let unreadable = |source| images::Error::File {
        file: path.to_owned(),
        source,
    };
    let changed = || Error::Changed {
        file: path.to_owned(),
    };
    let file: File = open_regular(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.len() != size {
        return Err(changed());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(unreadable)?;
    if Some(hasher.finalize()) == digest {
        Ok(())
    } else {
        Err(changed())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::manifest::{Container, Cost, Entry, FORMAT, Machine, NAME, Versions};
    use super::super::pages::{Compression, Digest, Encoder, Summary, TableBuilder, Writer};
    use super::*;
    use crate::images::verify::tests::whole;
    use std::fs;

    /// Three pages of memory.
    pub(crate) fn memory() -> Vec<u8> {
        (0..3 * 4096u32).map(|n| (n / 7) as u8).collect()
    }

    fn compressed(path: &Path) -> Summary {
        let mut encoder = Encoder::new(Compression::Zstd { level: 1 }).expect("encoder");
        let mut writer = Writer::new(File::create(path).expect("create"), 4096);
        for page in memory().chunks(4096) {
            let mut frame = Vec::new();
            let digest = encoder.encode(page, &mut frame).expect("encode");
            writer.frame(4096, &frame, digest).expect("frame");
        }
        writer.finish().expect("finish").1
    }

    /// A checkpoint of one process, with a compressed and a plain page file.
    pub(crate) fn stored() -> (tempfile::TempDir, Manifest) {
        let dir = whole();
        let at = |name: &str| dir.path().join(name);
        let mut files = Vec::new();
        for name in ["inventory.img", "core-1.img"] {
            let bytes = fs::read(at(name)).expect("read");
            let digest = blake3::hash(&bytes);
            files.push(Entry::whole(name, Kind::Image, bytes.len() as u64, digest));
        }
        let summary = compressed(&at("pages-1.img.zst"));
        files.push(Entry::pages("pages-1.img.zst", Kind::Pages, &summary));

        let mut table = TableBuilder::new(4096);
        for page in memory().chunks(4096) {
            table.frame(4096, 4096, Digest::of(page)).expect("frame");
        }
        let (trailer, summary) = table.finish();
        fs::write(at("pages-2.img"), memory()).expect("write");
        fs::write(at("pages-2.img.table"), &trailer).expect("write");
        files.push(Entry::pages("pages-2.img", Kind::Plain, &summary));
        let (size, digest) = (trailer.len() as u64, blake3::hash(&trailer));
        files.push(Entry::whole("pages-2.img.table", Kind::Table, size, digest));

        let manifest = Manifest {
            format: FORMAT,
            created: 0,
            files,
            parent: None,
            machine: Machine::default(),
            versions: Versions::default(),
            container: Container::default(),
            options: BTreeMap::new(),
            cost: Cost::default(),
        };
        (dir, manifest)
    }

    #[test]
    fn names_are_those_that_criu_gave() {
        let (dir, manifest) = stored();
        let directory = open(dir.path(), &manifest).expect("open");
        let names: Vec<&str> = directory.keys().map(String::as_str).collect();
        let expected = ["core-1.img", "inventory.img", "pages-1.img", "pages-2.img"];
        assert_eq!(names, expected);
    }

    #[test]
    fn changed_missing_and_foreign_files_are_named() {
        for (name, bytes) in [
            ("core-1.img", Some(&b"another"[..])),
            ("core-1.img", None),
            ("inventory.img", Some(b"")),
            (
                "pages-1.img.zst",
                Some(b"another, long enough for a footer"),
            ),
            ("pages-1.img.zst", None),
            ("pages-2.img", Some(b"shorter")),
            ("pages-2.img.table", None),
        ] {
            let (dir, manifest) = stored();
            let path = dir.path().join(name);
            match bytes {
                Some(bytes) => fs::write(&path, bytes).expect("write"),
                None => fs::remove_file(&path).expect("remove"),
            }
            let error = open(dir.path(), &manifest).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
        let (dir, manifest) = stored();
        let core = dir.path().join("core-1.img");
        fs::rename(&core, dir.path().join("elsewhere")).expect("rename");
        std::os::unix::fs::symlink("elsewhere", &core).expect("link");
        assert!(open(dir.path(), &manifest).is_err());
    }

    #[test]
    fn parents_are_subdirectories() {
        let (parent, parent_manifest) = stored();
        let text = parent_manifest.render().expect("render");
        fs::write(parent.path().join(NAME), text).expect("write");
        let (dir, mut manifest) = stored();
        manifest.parent = Some(parent.path().to_string_lossy().into_owned());
        let directory = open(dir.path(), &manifest).expect("open");
        let Some(Node::Directory(found)) = directory.get(PARENT) else {
            panic!("no parent");
        };
        assert!(found.contains_key("pages-1.img"));

        manifest.parent = Some(".".to_owned());
        let text = manifest.render().expect("render");
        fs::write(dir.path().join(NAME), text).expect("write");
        let endless = open(dir.path(), &manifest);
        assert!(matches!(endless, Err(Error::TooManyParents { .. })));
    }
}
