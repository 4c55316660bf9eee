//! The part of the FUSE protocol that a read-only file system needs (the kernel's
//! include/uapi/linux/fuse.h). Numbers are in the machine's byte order.

/// The protocol version of this server: the first with `max_pages`.
const MAJOR: u32 = 7;
const MINOR: u32 = 28;

/// Flags of INIT: parallel reads of a file, lists with attributes, parallel lookups in a
/// directory, a valid `max_pages`.
const ASYNC_READ: u32 = 1 << 0;
const DO_READDIRPLUS: u32 = 1 << 13;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;

/// Maximum length of a read, in pages: 1 MiB, the default limit of kernels.
const READ_PAGES: u16 = 256;
pub(super) const MAX_READ: usize = READ_PAGES as usize * 4096;

/// Size of the buffer for a request. The kernel refuses a smaller one for any request.
pub(super) const MIN_BUFFER: usize = 8192;

const HEADER_IN: usize = 40;
pub(super) const HEADER_OUT: usize = 16;

/// Validity of cached names and attributes, in seconds. They never change.
const FOR_EVER: u64 = 1 << 30;

/// Reads of the file bypass the kernel's page cache.
pub(super) const DIRECT_IO: u32 = 1 << 0;
/// The file's cached pages stay valid when it is opened again.
pub(super) const KEEP_CACHE: u32 = 1 << 1;

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Its number, which the reply repeats.
    pub(super) unique: u64,
    /// The node of the file or directory.
    pub(super) node: u64,
    pub(super) operation: Operation<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Init {
        minor: u32,
        max_readahead: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    GetAttributes,
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    Release,
    OpenDirectory,
    ReadDirectory {
        offset: u64,
        size: u32,
    },
    /// The same with each entry's attributes, which saves the kernel a LOOKUP.
    ReadDirectoryPlus {
        offset: u64,
        size: u32,
    },
    ReleaseDirectory,
    StatFs,
    /// An operation without a reply: the kernel forgets a node, or interrupts a request,
    /// which is answered soon in any case.
    NoReply,
    /// An optional operation, or one of writable file systems.
    Other,
}

impl<'a> Request<'a> {
    /// Parses a request; `None` if it is too short.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER_IN)?;
        let operation = match word(header, 4)? {
            1 => Operation::Lookup {
                name: body.split(|byte| *byte == 0).next()?,
            },
            2 | 36 | 42 => Operation::NoReply,
            3 => Operation::GetAttributes,
            14 => Operation::Open,
            15 => Operation::Read {
                offset: long(body, 8)?,
                size: word(body, 16)?,
            },
            17 => Operation::StatFs,
            18 => Operation::Release,
            26 => Operation::Init {
                minor: match word(body, 0)? {
                    MAJOR => word(body, 4)?,
                    _ => 0,
                },
                max_readahead: word(body, 8)?,
            },
            27 => Operation::OpenDirectory,
            28 => Operation::ReadDirectory {
                offset: long(body, 8)?,
                size: word(body, 16)?,
            },
            44 => Operation::ReadDirectoryPlus {
                offset: long(body, 8)?,
                size: word(body, 16)?,
            },
            29 => Operation::ReleaseDirectory,
            _ => Operation::Other,
        };
        Some(Self {
            unique: long(header, 8)?,
            node: long(header, 16)?,
            operation,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

/// The header of a reply with `length` bytes, or of an error, which has no bytes.
pub(super) fn header(unique: u64, error: i32, length: usize) -> [u8; HEADER_OUT] {
    let mut bytes = [0; HEADER_OUT];
    // The cast fits: the longest reply is that to a read.
    let total = (HEADER_OUT + length) as u32;
    bytes[..4].copy_from_slice(&total.to_ne_bytes());
    bytes[4..8].copy_from_slice(&(-error).to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// A message that puts a file of `length` bytes into the kernel's page cache
/// (`FUSE_NOTIFY_STORE`). The bytes follow it.
pub(super) fn store(node: u64, length: usize) -> Vec<u8> {
    const NOTIFY_STORE: i32 = 4;
    // A message has no number of a request, and its kind in place of the error, which
    // `header` negates.
    let mut out = Words(header(0, -NOTIFY_STORE, 24 + length).to_vec());
    out.longs(&[node, 0]);
    // The cast fits: one page.
    out.words(&[length as u32, 0]);
    out.0
}

/// The reply to INIT; `None` if the kernel's protocol is too old (before Linux 4.20).
pub(super) fn init(minor: u32, max_readahead: u32) -> Option<Vec<u8>> {
    if minor < MINOR {
        return None;
    }
    let mut out = Words::default();
    out.words(&[MAJOR, MINOR, max_readahead]);
    out.words(&[ASYNC_READ | DO_READDIRPLUS | PARALLEL_DIROPS | MAX_PAGES]);
    // Limits of background requests: zero selects the kernel's defaults.
    out.halves(&[0, 0]);
    // The smallest `max_write`, and the granularity of times.
    out.words(&[4096, 1]);
    out.halves(&[READ_PAGES, 0]);
    out.words(&[0; 8]);
    Some(out.0)
}

/// The attributes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) node: u64,
    pub(super) size: u64,
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The reply to LOOKUP.
pub(super) fn entry(attributes: Attributes) -> Vec<u8> {
    let mut out = Words::default();
    out.longs(&[attributes.node, 0, FOR_EVER, FOR_EVER]);
    out.words(&[0, 0]);
    out.attributes(attributes);
    out.0
}

/// The reply to GETATTR.
pub(super) fn attributes(attributes: Attributes) -> Vec<u8> {
    let mut out = Words::default();
    out.longs(&[FOR_EVER]);
    out.words(&[0, 0]);
    out.attributes(attributes);
    out.0
}

/// The reply to OPEN and OPENDIR.
pub(super) fn open(handle: u64, flags: u32) -> Vec<u8> {
    let mut out = Words::default();
    out.longs(&[handle]);
    out.words(&[flags, 0]);
    out.0
}

/// The reply to STATFS.
pub(super) fn statfs() -> Vec<u8> {
    let mut out = Words::default();
    // Blocks, free and available ones, files, free ones: all zero. Then block size,
    // longest name, fragment size, and reserved words.
    out.longs(&[0; 5]);
    out.words(&[4096, 255, 4096, 0]);
    out.words(&[0; 6]);
    out.0
}

/// Appends an entry to a reply to READDIR, and returns whether it fits within the
/// limit. `next` is the offset at which the kernel continues to read.
pub(super) fn directory_entry(
    out: &mut Vec<u8>,
    limit: usize,
    node: u64,
    next: u64,
    mode: u32,
    name: &str,
) -> bool {
    let length = (24 + name.len()).next_multiple_of(8);
    if out.len() + length > limit {
        return false;
    }
    let end = out.len() + length;
    let mut words = Words(std::mem::take(out));
    words.longs(&[node, next]);
    // The cast fits: a name has at most 255 bytes.
    words.words(&[name.len() as u32, mode >> 12]);
    *out = words.0;
    out.extend(name.as_bytes());
    out.resize(end, 0);
    true
}

/// Adds an entry with its attributes to the reply to READDIRPLUS. Returns false if it does
/// not fit. The kernel learns nothing of entries without `attributes`.
pub(super) fn directory_entry_plus(
    out: &mut Vec<u8>,
    limit: usize,
    attributes: Option<Attributes>,
    (node, next, mode): (u64, u64, u32),
    name: &str,
) -> bool {
    let before = out.len();
    let unknown = Attributes {
        node: 0,
        size: 0,
        mode,
        uid: 0,
        gid: 0,
    };
    out.extend(entry(attributes.unwrap_or(unknown)));
    let fits = directory_entry(out, limit, node, next, mode, name);
    if !fits {
        out.truncate(before);
    }
    fits
}

#[derive(Default)]
struct Words(Vec<u8>);

impl Words {
    fn halves(&mut self, values: &[u16]) {
        self.0.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    }

    fn words(&mut self, values: &[u32]) {
        self.0.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    }

    fn longs(&mut self, values: &[u64]) {
        self.0.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    }

    fn attributes(&mut self, a: Attributes) {
        // Number, size, blocks; the times of access, change, status change.
        self.longs(&[a.node, a.size, a.size.div_ceil(512), 0, 0, 0]);
        self.words(&[0, 0, 0]);
        // Mode, links, owner, group, device, block size, flags.
        self.words(&[a.mode, 1, a.uid, a.gid, 0, 4096, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut words = Words::default();
        words.words(&[(HEADER_IN + body.len()) as u32, opcode]);
        words.longs(&[7, 2, 0, 0]);
        words.0.truncate(HEADER_IN);
        words.0.extend(body);
        words.0
    }

    #[test]
    fn requests_are_parsed_and_short_ones_refused() {
        let mut body = Words::default();
        body.longs(&[3, 1 << 40]);
        body.words(&[65536, 0]);
        body.longs(&[0]);
        body.words(&[0, 0]);
        let read = request(15, &body.0);
        assert_eq!(
            Request::parse(&read),
            Some(Request {
                unique: 7,
                node: 2,
                operation: Operation::Read {
                    offset: 1 << 40,
                    size: 65536
                }
            })
        );
        for end in 0..HEADER_IN + 20 {
            assert_eq!(Request::parse(&read[..end]), None);
        }
        let lookup = request(1, b"pages-1.img\0");
        let name = b"pages-1.img".as_slice();
        assert!(
            Request::parse(&lookup)
                .is_some_and(|request| request.operation == Operation::Lookup { name })
        );
    }

    #[test]
    fn replies_have_the_sizes_of_the_kernels_structures() {
        let a = Attributes {
            node: 2,
            size: 3,
            mode: 0o100_400,
            uid: 0,
            gid: 0,
        };
        assert_eq!(entry(a).len(), 128);
        assert_eq!(attributes(a).len(), 104);
        assert_eq!(open(1, 0).len(), 16);
        assert_eq!(statfs().len(), 80);
        assert_eq!(init(40, 131_072).expect("new enough").len(), 64);
        assert_eq!(init(27, 131_072), None);
    }

    #[test]
    fn directory_entries_end_at_the_limit() {
        let mut out = Vec::new();
        assert!(directory_entry(&mut out, 64, 2, 1, 0o100_400, "core-1.img"));
        assert_eq!(out.len(), 40);
        assert!(!directory_entry(
            &mut out,
            64,
            3,
            2,
            0o100_400,
            "core-2.img"
        ));
        assert_eq!(out.len(), 40);
    }
}
