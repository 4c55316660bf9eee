//! The nodes of a served directory: attributes and content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::libc;

use super::protocol::{self, Attributes};
use crate::format::contents::{Directory, Node, Part};
use crate::format::pages::{Reader, Stored};

/// The user ID of the container's root on the host, which is not 0 in a user namespace.
/// CRIU opens images as that user, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root(pub u32);

/// The nodes of a directory tree. Node numbers count from [`protocol::ROOT`].
#[derive(Default)]
pub(super) struct Tree {
    pub(super) root: Root,
    pub(super) nodes: Vec<Shown>,
    pub(super) pages: Vec<Arc<Reader>>,
}

/// A node.
pub(super) struct Shown {
    /// Whether the kernel was sent the content.
    pub(super) sent: AtomicBool,
    pub(super) attributes: Attributes,
    pub(super) content: Content,
}

/// The content of a node.
pub(super) enum Content {
    Bytes(Arc<[u8]>),
    /// A file that is read where it is stored.
    Stock {
        stored: Arc<Stored>,
        /// As below.
        flags: u32,
    },
    Pages {
        /// The number of the file in [`Frames`].
        file: usize,
        /// Whether the kernel's page cache is used or bypassed.
        flags: u32,
    },
    /// An image in an archive that is verified when it is read.
    Packed(Part),
    Directory {
        parent: u64,
        entries: Vec<(String, u64)>,
    },
}

impl Tree {
    /// Adds a directory with everything in it and returns its node number.
    pub(super) fn add(&mut self, directory: Directory, parent: Option<u64>) -> u64 {
        let nothing = Content::Directory {
            parent: 0,
            entries: Vec::new(),
        };
        let node = self.push(None, 0, nothing);
        let mut entries = Vec::with_capacity(directory.len());
        for (name, shown) in directory {
            let child = match shown {
                Node::Directory(directory) => self.add(directory, Some(node)),
                Node::File {
                    metadata, bytes, ..
                } => self.push(Some(metadata), bytes.len() as u64, Content::Bytes(bytes)),
                Node::Stock {
                    stored,
                    metadata,
                    by_page,
                } => {
                    let size = metadata.len();
                    let flags = cache(by_page);
                    self.push(Some(metadata), size, Content::Stock { stored, flags })
                }
                Node::Pages { reader, by_page } => {
                    let size = reader.raw_bytes();
                    let metadata = reader.metadata().ok();
                    let file = self.pages.len();
                    self.pages.push(reader);
                    let flags = cache(by_page);
                    self.push(metadata, size, Content::Pages { file, flags })
                }
                Node::Packed(part) => {
                    let metadata = part.reader.metadata().ok();
                    self.push(metadata, part.size, Content::Packed(part))
                }
            };
            entries.push((name, child));
        }
        let parent = parent.unwrap_or(node);
        if let Some(shown) = self.nodes.get_mut(index(node)) {
            shown.attributes.mode = libc::S_IFDIR | 0o755;
            shown.content = Content::Directory { parent, entries };
        }
        node
    }

    /// Adds a node with the owner and the read permissions of the stored `file`.
    ///
    /// Until CRIU has set its users, a process in a new user namespace is the host's root
    /// without privileges, and reads as a member of root's group. Afterwards it reads as
    /// the container's root.
    fn push(&mut self, file: Option<Metadata>, size: u64, content: Content) -> u64 {
        let node = self.nodes.len() as u64 + protocol::ROOT;
        let (mode, uid, gid) = file.map_or((0, 0, 0), |meta| (meta.mode(), meta.uid(), meta.gid()));
        let (mode, uid) = match (uid, self.root) {
            (0, Root(root)) if root != 0 => (mode | (mode & 0o400) >> 3, root),
            _ => (mode, uid),
        };
        self.nodes.push(Shown {
            sent: AtomicBool::new(false),
            attributes: Attributes {
                node,
                size,
                mode: libc::S_IFREG | (mode & 0o444),
                uid,
                gid,
            },
            content,
        });
        node
    }
}

/// Whether the kernel's page cache is used for a page file. Long reads are twice as fast
/// without it, and it would hold a second copy, charged to the container. Reads of single
/// pages are five times as fast with the kernel's read-ahead.
fn cache(by_page: bool) -> u32 {
    match by_page {
        true => protocol::KEEP_CACHE,
        false => protocol::DIRECT_IO,
    }
}

/// The index of a node in [`Tree::nodes`].
pub(super) fn index(node: u64) -> usize {
    // An index of usize::MAX is beyond all nodes.
    usize::try_from(node.wrapping_sub(protocol::ROOT)).unwrap_or(usize::MAX)
}
