//! Serves a stored checkpoint to a runtime and CRIU as the directory that CRIU wrote.
//!
//! ```text
//! runc, CRIU ── open, read ──► kernel ── requests ──► readers ──► files, frames
//!       ▲                         │                      ▲
//!       └───── bytes ─────────────┘◄──── replies ────────┘     workers: decode ahead
//! ```
//!
//! It is a FUSE file system on a detached mount, which only a descriptor of this
//! process holds ([`mount`]). Its path is `/proc/<pid>/fd/<number>`. CRIU opens images
//! relative to that directory, even after it has changed its mount namespace and its
//! root, so a mount point or symbolic links would not work. Page files are decoded while
//! they are read ([`frames`]), without temporary files and within the given memory.
//!
//! The readers take turns to wait for a request, and each answers its own. So a reader
//! that waits for a frame does not block reads of other files. Readers wait for
//! workers; workers wait for no thread.
//!
//! When this process exits, the kernel closes the device and fails CRIU's reads: CRIU
//! exits with an error, and the kernel removes the mount. If a file is damaged, CRIU
//! gets an I/O error, and [`Server::damage`] returns the damaged frame and its file.

mod frames;
mod mount;
mod protocol;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, IoSlice, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::format::contents::{Directory, Node};
use crate::format::pages::{Damage, Decoder, Reader, open_regular};
use frames::Frames;
use protocol::{Attributes, Operation, Request};

pub use mount::Unavailable;

/// Maximum number of readers, and of workers: CRIU restores processes in parallel, and
/// each process reads one file at a time.
const MAX_THREADS: usize = 16;

/// The user ID of the container's root on the host, which is not 0 in a user namespace.
/// CRIU opens images as that user, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root(pub u32);

/// A server of one directory. Dropping it removes the mount and ends its threads.
pub struct Server {
    mount: Option<OwnedFd>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// A pipe whose closing ends the readers.
    stop: Option<PipeWriter>,
}

impl Server {
    /// Serves a directory, with up to `memory` bytes of page files decoded ahead. The
    /// container's `root` may read the files that the host's root may read.
    ///
    /// # Errors
    /// FUSE is not available to this process, or no thread can be started.
    pub fn start(directory: Directory, memory: u64, root: Root) -> Result<Self, Unavailable> {
        let thread = |source| Unavailable {
            what: "cannot start to serve the checkpoint's files",
            source,
        };
        let mut tree = Tree {
            root,
            ..Tree::default()
        };
        tree.add(directory, None);
        let (device, mount) = mount::detached()?;
        let (end, stop) = io::pipe().map_err(thread)?;
        let mut server = Self {
            mount: Some(mount),
            shared: Arc::new(Shared {
                device,
                turn: Mutex::new(end),
                nodes: tree.nodes,
                files: Mutex::default(),
                handles: AtomicU64::new(1),
                frames: Frames::new(tree.pages, memory),
                damage: Mutex::default(),
            }),
            threads: Vec::new(),
            stop: Some(stop),
        };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        // One reader more than processors, because one waits for requests.
        let readers = (processors + 1).min(MAX_THREADS);
        let workers = processors.min(MAX_THREADS);
        let work: fn(&Shared) = |shared| shared.frames.work();
        let tasks = std::iter::repeat_n(Shared::serve as fn(&Shared), readers)
            .chain(std::iter::repeat_n(work, workers));
        for task in tasks {
            let shared = server.shared.clone();
            let handle = thread::Builder::new()
                .spawn(move || task(&shared))
                .map_err(thread)?;
            server.threads.push(handle);
        }
        server.shared.frames.begin();
        Ok(server)
    }

    /// Returns the directory's path, which is valid until this process exits.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let number = self.mount.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        Path::new("/proc")
            .join(std::process::id().to_string())
            .join("fd")
            .join(number.to_string())
    }

    /// Returns the first damage that was found while CRIU read the files.
    #[must_use]
    pub fn damage(&self) -> Option<Arc<Damage>> {
        lock(&self.shared.damage).clone()
    }

    fn end(&mut self) {
        self.stop = None;
        self.mount = None;
        self.shared.frames.close();
        for thread in self.threads.drain(..) {
            // The thread returns nothing, and a panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The nodes of a directory tree. Node numbers count from [`protocol::ROOT`].
#[derive(Default)]
struct Tree {
    root: Root,
    nodes: Vec<Shown>,
    pages: Vec<Reader>,
}

struct Shown {
    attributes: Attributes,
    content: Content,
}

enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
    Pages {
        /// The number of the file in [`Frames`].
        file: usize,
        /// Whether the kernel's page cache is used or bypassed.
        flags: u32,
    },
    Directory {
        parent: u64,
        entries: Vec<(String, u64)>,
    },
}

impl Tree {
    /// Adds a directory with everything in it and returns its node number.
    fn add(&mut self, directory: Directory, parent: Option<u64>) -> u64 {
        let nothing = Content::Directory {
            parent: 0,
            entries: Vec::new(),
        };
        let node = self.push(None, 0, nothing);
        let mut entries = Vec::with_capacity(directory.len());
        for (name, shown) in directory {
            let child = match shown {
                Node::Directory(directory) => self.add(directory, Some(node)),
                Node::File { path } => {
                    let metadata = fs::symlink_metadata(&path).ok();
                    let size = metadata.as_ref().map_or(0, Metadata::len);
                    self.push(metadata, size, Content::File(path))
                }
                Node::Edited { path, bytes } => {
                    let metadata = fs::symlink_metadata(&path).ok();
                    self.push(metadata, bytes.len() as u64, Content::Bytes(bytes))
                }
                Node::Pages { reader, by_page } => {
                    let size = reader.table().raw_bytes();
                    let metadata = reader.metadata().ok();
                    let file = self.pages.len();
                    self.pages.push(reader);
                    // Long reads are twice as fast without the page cache, which
                    // would hold a second copy, charged to the container. Reads of
                    // single pages are five times as fast with the kernel's
                    // read-ahead.
                    let flags = match by_page {
                        true => protocol::KEEP_CACHE,
                        false => protocol::DIRECT_IO,
                    };
                    self.push(metadata, size, Content::Pages { file, flags })
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

fn index(node: u64) -> usize {
    // An index of usize::MAX is beyond all nodes.
    usize::try_from(node.wrapping_sub(protocol::ROOT)).unwrap_or(usize::MAX)
}

/// The state that the threads share.
struct Shared {
    device: File,
    /// The reader that holds this lock waits for the next request. The pipe becomes
    /// readable when readers must exit.
    turn: Mutex<io::PipeReader>,
    nodes: Vec<Shown>,
    /// Open files that are not page files, by handle.
    files: Mutex<HashMap<u64, Arc<File>>>,
    /// The next handle.
    handles: AtomicU64,
    frames: Frames,
    /// The first damage that a reader found.
    damage: Mutex<Option<Arc<Damage>>>,
}

/// The buffers of one reader.
#[derive(Default)]
struct Scratch {
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Shared {
    /// Answers requests until there are no more.
    fn serve(&self) {
        let mut buffer = vec![0; protocol::MIN_BUFFER];
        let mut scratch = Scratch::default();
        // If replies can't be sent, receiving fails, too, and ends the loop.
        while let Some(length) = self.receive(&mut buffer) {
            // The kernel sends only complete requests.
            if let Some(request) = Request::parse(&buffer[..length]) {
                self.answer(request, &mut scratch);
            }
        }
    }

    /// Receives a request and returns its length; `None` at the end.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let end = lock(&self.turn);
        loop {
            let mut ready = [
                PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            if ready[1].any() == Some(true) {
                return None;
            }
            match (&self.device).read(buffer) {
                Ok(length) => return Some(length),
                Err(error) => match error.kind() {
                    // No request is pending, or its caller was killed meanwhile.
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotFound => {}
                    // ENODEV: the kernel has removed the mount.
                    _ => return None,
                },
            }
        }
    }

    fn answer(&self, request: Request, scratch: &mut Scratch) {
        let result = match request.operation {
            Operation::NoReply => return,
            Operation::Init {
                minor,
                max_readahead,
            } => protocol::init(minor, max_readahead).ok_or(Errno::EPROTO),
            Operation::Lookup { name } => self.lookup(request.node, name),
            Operation::GetAttributes => self
                .node(request.node)
                .map(|shown| protocol::attributes(shown.attributes)),
            Operation::Open => self.open(request.node),
            Operation::Read {
                handle,
                offset,
                size,
            } => {
                let size = (size as usize).min(protocol::MAX_READ);
                match self.read(request, handle, offset, size, scratch) {
                    Ok(()) => return,
                    Err(errno) => Err(errno),
                }
            }
            Operation::Release { handle } => {
                if let Ok(Content::Pages { file, .. }) = self.content(request.node) {
                    self.frames.release(*file);
                } else {
                    lock(&self.files).remove(&handle);
                }
                Ok(Vec::new())
            }
            Operation::OpenDirectory => Ok(protocol::open(0, protocol::KEEP_CACHE)),
            Operation::ReadDirectory { offset, size } => {
                self.read_directory(request.node, offset, size as usize)
            }
            Operation::ReleaseDirectory => Ok(Vec::new()),
            Operation::StatFs => Ok(protocol::statfs()),
            Operation::Other => Err(Errno::ENOSYS),
        };
        match result {
            Ok(bytes) => self.reply(request, 0, &[&bytes]),
            Err(errno) => self.reply(request, errno as i32, &[]),
        }
    }

    fn reply(&self, request: Request, error: i32, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum();
        let header = protocol::header(request.unique, error, length);
        let slices: Vec<IoSlice> = std::iter::once(&header[..])
            .chain(parts.iter().copied())
            .map(IoSlice::new)
            .collect();
        // The kernel accepts a reply as a whole, or refuses it if the caller no longer
        // waits.
        let _ = (&self.device).write_vectored(&slices);
    }

    fn node(&self, node: u64) -> Result<&Shown, Errno> {
        self.nodes.get(index(node)).ok_or(Errno::ENOENT)
    }

    fn content(&self, node: u64) -> Result<&Content, Errno> {
        self.node(node).map(|shown| &shown.content)
    }

    fn lookup(&self, node: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let Content::Directory { entries, .. } = self.content(node)? else {
            return Err(Errno::ENOTDIR);
        };
        // The entries come from a map, in order.
        let found = entries
            .binary_search_by(|(entry, _)| entry.as_bytes().cmp(name))
            .map_err(|_| Errno::ENOENT)?;
        Ok(protocol::entry(self.node(entries[found].1)?.attributes))
    }

    fn open(&self, node: u64) -> Result<Vec<u8>, Errno> {
        match self.content(node)? {
            Content::File(path) => {
                let file = open_regular(path).map_err(|source| self.unreadable(path, source))?;
                let handle = self.handles.fetch_add(1, Ordering::Relaxed);
                lock(&self.files).insert(handle, Arc::new(file));
                Ok(protocol::open(handle, protocol::KEEP_CACHE))
            }
            Content::Bytes(_) => Ok(protocol::open(0, protocol::KEEP_CACHE)),
            Content::Pages { file, flags } => {
                self.frames.open(*file);
                Ok(protocol::open(0, *flags))
            }
            Content::Directory { .. } => Err(Errno::EISDIR),
        }
    }

    /// Answers a read. Page files are written from the frames without a copy.
    fn read(
        &self,
        request: Request,
        handle: u64,
        offset: u64,
        size: usize,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        let shown = self.node(request.node)?;
        let end = offset
            .saturating_add(size as u64)
            .min(shown.attributes.size);
        if offset >= end {
            self.reply(request, 0, &[]);
            return Ok(());
        }
        match &shown.content {
            Content::File(path) => {
                let file = lock(&self.files).get(&handle).cloned();
                let file = file.ok_or(Errno::EBADF)?;
                scratch.bytes.resize((end - offset) as usize, 0);
                file.read_exact_at(&mut scratch.bytes, offset)
                    .map_err(|source| self.unreadable(path, source))?;
                self.reply(request, 0, &[&scratch.bytes]);
            }
            Content::Bytes(bytes) => {
                self.reply(request, 0, &[&bytes[offset as usize..end as usize]]);
            }
            Content::Pages { file, .. } => {
                let frames = self
                    .frames
                    .get(*file, offset, end, &mut scratch.decoder)
                    .map_err(|damage| self.damaged(damage))?;
                let size = u64::from(self.frames.files()[*file].table().frame_size());
                let mut start = offset - offset % size;
                let parts: Vec<&[u8]> = frames
                    .iter()
                    .map(|frame| {
                        let from = offset.saturating_sub(start) as usize;
                        let to = (end - start).min(frame.len() as u64) as usize;
                        start += size;
                        &frame[from..to]
                    })
                    .collect();
                self.reply(request, 0, &parts);
            }
            Content::Directory { .. } => return Err(Errno::EISDIR),
        }
        Ok(())
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> Errno {
        self.damaged(Arc::new(Damage::Read {
            file: path.to_owned(),
            source,
        }))
    }

    fn damaged(&self, damage: Arc<Damage>) -> Errno {
        lock(&self.damage).get_or_insert(damage);
        Errno::EIO
    }

    fn read_directory(&self, node: u64, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let Content::Directory { parent, entries } = self.content(node)? else {
            return Err(Errno::ENOTDIR);
        };
        let limit = size.min(protocol::MAX_READ);
        let mut out = Vec::new();
        let dots = [(".", node), ("..", *parent)];
        let all = dots
            .into_iter()
            .chain(entries.iter().map(|(name, node)| (name.as_str(), *node)));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (name, node)) in (1..).zip(all).skip(skip) {
            let mode = self.node(node)?.attributes.mode;
            if !protocol::directory_entry(&mut out, limit, node, next, mode, name) {
                break;
            }
        }
        Ok(out)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
