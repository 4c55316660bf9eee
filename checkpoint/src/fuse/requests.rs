//! Receives and answers the kernel's requests.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::frames::Frames;
use super::protocol::{self, Operation, Request};
use super::tree::{Content, Shown, index};
use crate::format::pages::{Damage, Decoder};

/// The largest file that the kernel is sent unasked: one page.
const MAX_SENT: usize = 4096;

/// The number of entries that every directory begins with: `.` and `..`.
const DOTS: u64 = 2;

/// The state that the threads share.
pub(super) struct Shared {
    pub(super) device: File,
    /// The reader that holds this lock waits for the next request, and answers it if that
    /// takes no file. The pipe becomes readable when readers must exit.
    pub(super) turn: Mutex<io::PipeReader>,
    pub(super) nodes: Vec<Shown>,
    pub(super) frames: Frames,
    /// The first damage that a reader found.
    pub(super) damage: Mutex<Option<Arc<Damage>>>,
}

/// The buffers of one reader.
#[derive(Default)]
struct Scratch {
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Shared {
    /// Answers requests until there are no more.
    pub(super) fn serve(&self) {
        let mut buffer = vec![0; protocol::MIN_BUFFER];
        let mut scratch = Scratch::default();
        let mut turn = lock(&self.turn);
        // If replies can't be sent, receiving fails, too, and ends the loop.
        while let Some(length) = self.receive(&turn, &mut buffer) {
            // The kernel sends only complete requests.
            let Some(request) = Request::parse(&buffer[..length]) else {
                continue;
            };
            if self.is_from_memory(request) {
                self.answer(request, &mut scratch);
            } else {
                drop(turn);
                self.answer(request, &mut scratch);
                turn = lock(&self.turn);
            }
        }
    }

    /// Whether the answer needs neither a file nor a frame. To wake the next reader
    /// would take longer: a restore opens and reads an image for each TCP connection.
    fn is_from_memory(&self, request: Request) -> bool {
        match request.operation {
            Operation::Read { .. } => matches!(
                self.content(request.node),
                Ok(Content::Bytes(_) | Content::Directory { .. }) | Err(_)
            ),
            _ => true,
        }
    }

    /// Receives a request and returns its length; `None` at the end.
    fn receive(&self, end: &io::PipeReader, buffer: &mut [u8]) -> Option<usize> {
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
            Operation::Read { offset, size } => {
                let size = (size as usize).min(protocol::MAX_READ);
                match self.read(request, offset, size, scratch) {
                    Ok(()) => return,
                    Err(errno) => Err(errno),
                }
            }
            Operation::Release => {
                if let Ok(Content::Pages { file, .. }) = self.content(request.node) {
                    self.frames.release(*file);
                }
                Ok(Vec::new())
            }
            Operation::OpenDirectory => Ok(protocol::open(0, protocol::KEEP_CACHE)),
            Operation::ReadDirectory { offset, size } => {
                self.read_directory(request.node, offset, size as usize, false)
            }
            Operation::ReadDirectoryPlus { offset, size } => {
                self.read_directory(request.node, offset, size as usize, true)
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
            Content::Stock { flags, .. } => Ok(protocol::open(0, *flags)),
            Content::Bytes(bytes) => {
                self.send(node, bytes)?;
                Ok(protocol::open(0, protocol::KEEP_CACHE))
            }
            Content::Packed(_) => Ok(protocol::open(0, protocol::KEEP_CACHE)),
            Content::Pages { file, flags } => {
                self.frames.open(*file);
                Ok(protocol::open(0, *flags))
            }
            Content::Directory { .. } => Err(Errno::EISDIR),
        }
    }

    /// Puts a small file into the kernel's page cache when it is opened first, which saves
    /// a request to read it. The kernel waits for requests to read the same page, and this
    /// thread may be the one that would answer them. There are none before the first
    /// open was answered, and opens are answered one at a time, with the turn.
    fn send(&self, node: u64, bytes: &[u8]) -> Result<(), Errno> {
        let is_small = (1..=MAX_SENT).contains(&bytes.len());
        if is_small && !self.node(node)?.sent.swap(true, Ordering::Relaxed) {
            let message = protocol::store(node, bytes.len());
            let slices = [IoSlice::new(&message), IoSlice::new(bytes)];
            // The kernel reads the file if it did not take it.
            let _ = (&self.device).write_vectored(&slices);
        }
        Ok(())
    }

    /// Answers a read. Page files are written from the frames without a copy.
    fn read(
        &self,
        request: Request,
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
            Content::Stock { stored, .. } => {
                scratch.bytes.resize((end - offset) as usize, 0);
                let read = stored.file.read_exact_at(&mut scratch.bytes, offset);
                read.map_err(|source| self.unreadable(&stored.path, source))?;
                self.reply(request, 0, &[&scratch.bytes]);
            }
            Content::Bytes(bytes) => {
                self.reply(request, 0, &[&bytes[offset as usize..end as usize]]);
            }
            Content::Packed(part) => {
                scratch.bytes.resize((end - offset) as usize, 0);
                let read = part.read_at(offset, &mut scratch.decoder, &mut scratch.bytes);
                read.map_err(|damage| self.damaged(Arc::new(damage)))?;
                self.reply(request, 0, &[&scratch.bytes]);
            }
            Content::Pages { file, .. } => {
                let frames = self
                    .frames
                    .get(*file, offset, end, &mut scratch.decoder)
                    .map_err(|damage| self.damaged(damage))?;
                let reader = &self.frames.files()[*file];
                let mut start = reader.range(reader.frame_at(offset)).start;
                let parts: Vec<&[u8]> = frames
                    .iter()
                    .map(|frame| {
                        let from = offset.saturating_sub(start) as usize;
                        let to = (end - start).min(frame.len() as u64) as usize;
                        start += frame.len() as u64;
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

    fn read_directory(
        &self,
        node: u64,
        offset: u64,
        size: usize,
        plus: bool,
    ) -> Result<Vec<u8>, Errno> {
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
            let attributes = self.node(node)?.attributes;
            let mode = attributes.mode;
            let fits = match plus {
                true => {
                    let attributes = (next > DOTS).then_some(attributes);
                    let entry = (node, next, mode);
                    protocol::directory_entry_plus(&mut out, limit, attributes, entry, name)
                }
                false => protocol::directory_entry(&mut out, limit, node, next, mode, name),
            };
            if !fits {
                break;
            }
        }
        Ok(out)
    }
}

/// Locks a mutex, and ignores poisoning.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
