//! The contents of a checkpoint, as the directory that CRIU wrote.
//!
//! ```text
//! OpenedDir ─► small files    read once: in memory, digest compared
//!          ├─► large files    opened once: a digest for each frame is taken meanwhile
//!          ├─► page files     opened once: the digest of the trailer is compared
//!          ├─► lists of chunks  opened once: the digest of the list is compared, and
//!          │                  all chunks are looked for in the node's store
//!          └─► connections    the archive is read like a small or a large file, and each
//!                             image in it is a file of CRIU's again
//! ```
//!
//! With a manifest, only the files that it lists are part of the checkpoint. What was
//! verified is what CRIU reads: the bytes that were hashed, or frames that are compared
//! again when they are read. Without a manifest ([`stock`]) there are no digests. Only
//! files with names of CRIU's are part of such a checkpoint, and each is opened once.
//!
//! A parent (an earlier pre-dump, with the memory that has not changed since) is a
//! subdirectory, which CRIU finds under the name `parent`.

mod packed;

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;

use super::Error;
use super::manifest::{Entry, Kind, Manifest, PARENT};
use super::pages::{ChunkStore, Reader, Stored, read_list};
use crate::images;
use crate::images::forked;
use crate::images::pstree;
use crate::images::source::is_criu;
use crate::images::verify::check_pagemaps;
use crate::opened::{OpenedDir, kind};

pub use packed::Part;

/// Maximum length of a chain of parents. A real chain has a handful of pre-dumps. The
/// limit ends a chain that leads back to itself.
const MAX_PARENTS: usize = 64;

/// Bytes of small files that are held in memory, of a checkpoint and its parents. Larger
/// ones, such as archives of temporary file systems, are verified when they are read.
const MAX_IN_MEMORY: u64 = 256 << 20;

/// A directory: entries by name.
pub type Directory = BTreeMap<String, Node>;

/// The contents of a checkpoint.
#[derive(Debug, Clone)]
pub struct Contents {
    dir: PathBuf,
    /// What CRIU reads.
    pub directory: Directory,
}

/// One entry of a directory.
#[derive(Debug, Clone)]
pub enum Node {
    /// A file in memory.
    File {
        /// The path of the stored file.
        path: PathBuf,
        /// The status of the stored file: its owner and mode.
        metadata: Metadata,
        /// Its content, which may be edited for CRIU.
        bytes: Arc<[u8]>,
    },
    /// A file without digests, which is read where it is stored.
    Stock {
        /// The file.
        stored: Arc<Stored>,
        /// Its status when it was opened.
        metadata: Metadata,
        /// As in [`Node::Pages`].
        by_page: bool,
    },
    /// A page file, or another file that is verified in frames.
    Pages {
        /// The reader of its raw bytes.
        reader: Arc<Reader>,
        /// Whether CRIU will read it page by page, as for a process that shares memory
        /// with its parent, and not in long runs.
        by_page: bool,
    },
    /// An image in an archive that is too large for memory.
    Packed(Part),
    /// A subdirectory.
    Directory(Directory),
}

/// Opens a checkpoint with a manifest, and verifies everything but the frames. Memory that
/// is not in the checkpoint is in `store`, the directory of the node's store, which is
/// opened only then.
///
/// # Errors
/// A file is missing, refused or damaged, or memory is not in the store; the error names
/// it.
pub fn open(dir: &OpenedDir, manifest: &Manifest, store: &Path) -> Result<Contents, Error> {
    Opening::new(store).ours(dir, manifest)
}

/// Opens a checkpoint without a manifest: the files that CRIU and the runtime wrote. A
/// parent may have memory in `store`.
///
/// # Errors
/// A file can't be read or is refused; the error names it.
pub fn stock(dir: &OpenedDir, store: &Path) -> Result<Contents, Error> {
    Opening::new(store).stock(dir)
}

/// The lists of a checkpoint's page files whose memory is in the store. The store is not
/// looked at.
///
/// # Errors
/// A list can't be read, or is damaged; the error names it.
pub fn lists(dir: &OpenedDir, manifest: &Manifest) -> Result<Vec<cedana_store::list::List>, Error> {
    let entries = manifest.files.iter();
    let entries = entries.filter(|entry| entry.kind == Kind::Chunks);
    let lists = entries.map(|entry| {
        let stored = file(dir, &entry.name)?;
        Ok(read_list(&stored, entry.size, entry.hash())?)
    });
    lists.collect()
}

/// A checkpoint that is being opened: what is left of the limits, and the store.
struct Opening {
    parents: usize,
    memory: u64,
    store: ChunkStore,
}

impl Contents {
    /// The checkpoint's directory, for messages.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Opening {
    fn new(store: &Path) -> Self {
        Self {
            parents: MAX_PARENTS,
            memory: MAX_IN_MEMORY,
            store: ChunkStore::new(store),
        }
    }

    fn ours(&mut self, dir: &OpenedDir, manifest: &Manifest) -> Result<Contents, Error> {
        let mut contents = Contents {
            dir: dir.path().to_owned(),
            directory: Directory::new(),
        };
        let (mut small, large): (Vec<&Entry>, Vec<&Entry>) = manifest
            .files
            .iter()
            .partition(|entry| matches!(entry.kind, Kind::Image | Kind::Streams | Kind::Other));
        // The smallest first, because this module and others read small images.
        small.sort_by_key(|entry| entry.size);
        for entry in small {
            match entry.kind {
                Kind::Streams => self.streams(dir, entry, &mut contents.directory)?,
                _ => insert(
                    &mut contents.directory,
                    dir,
                    &entry.name,
                    self.small(dir, entry)?,
                )?,
            }
        }
        pstree::check(&contents)?;
        let forked = forked::pages(&contents)?;
        for entry in large {
            let stored = file(dir, &entry.name)?;
            let frames = entry.pages.and_then(|pages| pages.frames);
            let frames = frames.map(|frames| frames.count);
            let reader = match entry.kind {
                Kind::Pages => Reader::compressed(stored, entry.hash(), frames)?,
                Kind::Plain => {
                    let table = file(dir, &format!("{}.table", entry.name))?;
                    Reader::plain(stored, &table, entry.hash(), frames)?
                }
                Kind::Chunks => self.store.open(stored, entry.size, entry.hash())?,
                // A table was opened with its page file.
                Kind::Image | Kind::Streams | Kind::Other | Kind::Table => continue,
            };
            if entry.pages.map(|pages| pages.raw_size) != Some(reader.raw_bytes()) {
                let file = reader.path().to_owned();
                return Err(Error::Changed { file });
            }
            let by_page = forked.contains(entry.raw_name());
            let reader = Arc::new(reader);
            let node = Node::Pages { reader, by_page };
            contents.directory.insert(entry.raw_name().to_owned(), node);
        }
        if !contents.directory.contains_key("inventory.img") {
            let dir = contents.dir;
            return Err(images::Error::NoInventory { dir }.into());
        }
        check_pagemaps(&contents, |file| match contents.directory.get(file) {
            Some(Node::Pages { reader, .. }) => Some(reader.raw_bytes()),
            _ => None,
        })?;
        if let Some(parent) = &manifest.parent {
            let parent = dir.sibling(Path::new(parent));
            let parent = parent.map_err(|source| in_parent(dir, source))?;
            self.parent(&parent, &mut contents)?;
        }
        Ok(contents)
    }

    /// Reads and verifies a file that is not a page file.
    fn small(&mut self, dir: &OpenedDir, entry: &Entry) -> Result<Node, Error> {
        Ok(match self.verified(dir, entry)? {
            Verified::InMemory(stored, metadata, bytes) => Node::File {
                path: stored.path,
                metadata,
                bytes: bytes.into(),
            },
            Verified::Framed(reader) => Node::Pages {
                reader: Arc::new(reader),
                by_page: false,
            },
        })
    }

    /// Reads and verifies a file with one digest, in memory if there is room.
    fn verified(&mut self, dir: &OpenedDir, entry: &Entry) -> Result<Verified, Error> {
        let stored = file(dir, &entry.name)?;
        let metadata = status(&stored)?;
        if stored.file.length().ok() != Some(entry.size) {
            return Err(Error::Changed { file: stored.path });
        }
        let Some(memory) = self.memory.checked_sub(entry.size) else {
            let reader = Reader::digested(stored, entry.size, entry.hash())?;
            return Ok(Verified::Framed(reader));
        };
        self.memory = memory;
        let bytes = read(&stored, entry.size)?;
        if bytes.len() as u64 != entry.size || Some(blake3::hash(&bytes)) != entry.hash() {
            return Err(Error::Changed { file: stored.path });
        }
        Ok(Verified::InMemory(stored, metadata, bytes))
    }

    fn stock(&mut self, dir: &OpenedDir) -> Result<Contents, Error> {
        let mut contents = Contents {
            dir: dir.path().to_owned(),
            directory: Directory::new(),
        };
        let mut names = Vec::new();
        let unreadable = |source| images::Error::Directory {
            dir: dir.path().to_owned(),
            source,
        };
        for name in dir.names().map_err(unreadable)? {
            if is_criu(&name) {
                let status = dir.status(&name).map_err(unreadable)?;
                names.push((status.map_or(0, |status| status.st_size), name));
            }
        }
        // The smallest first, as above. A small file is closed before the next is opened,
        // because there may be more of them than a process may have open.
        names.sort_unstable();
        for (_, name) in names {
            let stored = file(dir, &name)?;
            let metadata = status(&stored)?;
            let size = metadata.len();
            let node = match self.memory.checked_sub(size) {
                Some(memory) if !name.starts_with("pages-") => {
                    self.memory = memory;
                    Node::File {
                        bytes: read(&stored, size)?.into(),
                        path: stored.path,
                        metadata,
                    }
                }
                _ => Node::Stock {
                    stored: Arc::new(stored),
                    metadata,
                    by_page: false,
                },
            };
            contents.directory.insert(name, node);
        }
        pstree::check(&contents)?;
        for name in forked::pages(&contents)? {
            if let Some(Node::Stock { by_page, .. }) = contents.directory.get_mut(&name) {
                *by_page = true;
            }
        }
        self.stock_parent(dir, &mut contents)?;
        Ok(contents)
    }

    /// Opens the parent that CRIU's link names. `unpack` writes a directory in its place.
    fn stock_parent(&mut self, dir: &OpenedDir, contents: &mut Contents) -> Result<(), Error> {
        let failed = |source| in_parent(dir, source);
        let Some(status) = dir.status(PARENT).map_err(failed)? else {
            return Ok(());
        };
        let parent = match kind(&status) {
            libc::S_IFDIR => dir.subdirectory(PARENT),
            _ => dir
                .link(PARENT)
                .and_then(|target| dir.sibling(&target.unwrap_or_default())),
        };
        self.parent(&parent.map_err(failed)?, contents)
    }

    /// Adds a parent, which may have a manifest or not.
    fn parent(&mut self, parent: &OpenedDir, contents: &mut Contents) -> Result<(), Error> {
        let Some(parents) = self.parents.checked_sub(1) else {
            return Err(Error::TooManyParents {
                dir: parent.path().to_owned(),
            });
        };
        self.parents = parents;
        let found = match Manifest::read(parent)? {
            Some(manifest) => self.ours(parent, &manifest)?,
            None => self.stock(parent)?,
        };
        let node = Node::Directory(found.directory);
        contents.directory.insert(PARENT.to_owned(), node);
        Ok(())
    }
}

/// A file that was compared with its digest.
enum Verified {
    /// Its content.
    InMemory(Stored, Metadata, Vec<u8>),
    /// Too large for memory, and compared again when it is read.
    Framed(Reader),
}

/// Adds an entry that must be new: an image may be a file or in the archive.
fn insert(directory: &mut Directory, dir: &OpenedDir, name: &str, node: Node) -> Result<(), Error> {
    match directory.insert(name.to_owned(), node) {
        None => Ok(()),
        Some(_) => Err(Error::Twice {
            dir: dir.path().to_owned(),
            name: name.to_owned(),
        }),
    }
}

fn in_parent(dir: &OpenedDir, source: io::Error) -> Error {
    Error::Parent {
        dir: dir.path().to_owned(),
        source,
    }
}

fn file(dir: &OpenedDir, name: &str) -> Result<Stored, Error> {
    let path = dir.path().join(name);
    match dir.file(name) {
        Ok(file) => Ok(Stored { path, file }),
        Err(source) => Err(images::Error::File { file: path, source }.into()),
    }
}

fn status(stored: &Stored) -> Result<Metadata, Error> {
    let unreadable = |source| images::Error::File {
        file: stored.path.clone(),
        source,
    };
    Ok(stored.file.metadata().map_err(unreadable)?)
}

/// Reads a file of this size. The buffer grows with the bytes that are read.
fn read(stored: &Stored, size: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match (&stored.file).take(size).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => {
            let file = stored.path.clone();
            Err(images::Error::File { file, source }.into())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
