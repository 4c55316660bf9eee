//! A tar that another program wrote, read in one pass: Podman's, CRI-O's, the kubelet's.
//!
//! ```text
//! file ─► zstd, gzip or neither ─► Foreign ─► next: path, size
//!                                     └────► read: the entry's content
//! ```
//!
//! Such a tar has directories and paths, which an archive of ours ([`super::Index`]) has
//! not, and may be compressed, so there is no index. It is untrusted: anything but regular
//! files and directories is refused, and so is a path that leads out of the archive. What
//! is held in memory is bounded: one extended header of [`MAX_EXTENSION`] bytes at most.
//! The paths are for the caller to choose from; nothing here is written anywhere.

use std::io::{self, Read};

use super::header::{self, Bytes};
use super::pax::Records;
use super::{BLOCK, padding};

/// The longest extended header. The kernel limits an extended attribute to 64 KiB, and a
/// path to 4 KiB.
const MAX_EXTENSION: u64 = 1 << 20;

/// The longest path (PATH_MAX of Linux).
const MAX_PATH: usize = 4096;

/// The most entries. CRIU writes about ten files for each process.
const MAX_ENTRIES: usize = 1 << 20;

/// The most zeros after the end. GNU tar fills its last record, of up to 1 MiB (`-b 2048`).
const MAX_PADDING: u64 = 1 << 20;

/// The reason not to read a tar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It can't be read or decompressed.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It ends within an entry, or has no end.
    #[error("it is truncated (at byte {at} of the tar); copy it again")]
    Truncated {
        /// The offset.
        at: u64,
    },
    /// It is no tar, or has something that no checkpoint has.
    #[error("{what} (at byte {at} of the tar){}", shown(path))]
    Entry {
        /// The offset of the header.
        at: u64,
        /// The entry's path as written, if it has one.
        path: String,
        /// The reason.
        what: &'static str,
    },
}

fn shown(path: &str) -> String {
    match path.is_empty() {
        true => String::new(),
        false => format!(": {path:?}"),
    }
}

/// A file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEntry {
    /// Its path: plain components between slashes, none at the beginning or the end. Empty
    /// for the directory that the archive was made of.
    pub path: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// The length of its content.
    pub size: u64,
    /// Its time, in seconds since 1970.
    pub modified: u64,
}

/// See the module's documentation. [`Read`] reads the content of the entry that
/// [`Foreign::entry`] returned last.
#[derive(Debug)]
pub struct Foreign<R> {
    input: R,
    /// The offset of the next byte.
    at: u64,
    /// The bytes of the content that were not read yet, and the zeros after it.
    left: u64,
    padding: u64,
    entries: usize,
}

impl<R: Read> Foreign<R> {
    /// Begins to read.
    pub fn new(input: R) -> Self {
        Self {
            input,
            at: 0,
            left: 0,
            padding: 0,
            entries: 0,
        }
    }

    /// The next entry; `None` at the end. What was not read of the last one is skipped.
    ///
    /// # Errors
    /// It can't be read, or is refused.
    pub fn entry(&mut self) -> Result<Option<ForeignEntry>, Fault> {
        let mut records = Records::default();
        let mut long_name = None;
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let at = self.at;
            let mut bytes = [0; BLOCK as usize];
            self.fill(&mut bytes)?;
            if bytes.iter().all(|byte| *byte == 0) {
                self.end()?;
                return Ok(None);
            }
            let head = Head::parse(&bytes);
            let head = head.map_err(|what| self.fault(at, "", what))?;
            let refused = |what| Fault::Entry {
                at,
                path: head.path.clone(),
                what,
            };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(refused("more entries than any checkpoint has"));
            }
            (self.left, self.padding) = (head.size, padding(head.size));
            match head.kind {
                b'x' => records = Records::parse(&self.extension(at)?).map_err(refused)?,
                // Comments, such as git's, are for people.
                b'g' if Records::parse(&self.extension(at)?) == Ok(Records::default()) => {}
                b'g' => return Err(refused("a header for all entries")),
                b'L' => {
                    let text = self.extension(at)?;
                    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                    let text = std::str::from_utf8(text);
                    let text = text.map_err(|_| refused("a name that is no UTF-8"))?;
                    long_name = Some(text.to_owned());
                }
                b'0' | 0 | b'5' => {
                    let path = records.path.or(long_name).unwrap_or(head.path);
                    let size = records.size.unwrap_or(head.size);
                    let refused = |what| Fault::Entry {
                        at,
                        path: path.clone(),
                        what,
                    };
                    // Before 1988 a directory was a file whose name ends in a slash.
                    let is_directory = head.kind == b'5' || path.ends_with('/');
                    if is_directory && size != 0 {
                        return Err(refused("a directory with a content"));
                    }
                    (self.left, self.padding) = (size, padding(size));
                    return Ok(Some(ForeignEntry {
                        path: normal(&path).map_err(refused)?,
                        is_directory,
                        size,
                        modified: head.modified,
                    }));
                }
                b'1' | b'2' => return Err(refused("a link, which could lead out of it")),
                b'S' => return Err(refused("a sparse file")),
                _ => return Err(refused("neither a file nor a directory")),
            }
        }
    }

    /// Reads the content of an extended header.
    fn extension(&mut self, at: u64) -> Result<Vec<u8>, Fault> {
        if self.left > MAX_EXTENSION {
            return Err(self.fault(at, "", "an extended header that is too long"));
        }
        let mut bytes = vec![0; self.left as usize];
        self.fill(&mut bytes)?;
        self.left = 0;
        Ok(bytes)
    }

    /// Reads the rest: a second block of zeros, and what fills the last record. So the
    /// checksum at the end of a compressed stream is compared, too.
    fn end(&mut self) -> Result<(), Fault> {
        let at = self.at;
        let mut bytes = [0; BLOCK as usize];
        self.fill(&mut bytes)?;
        let mut rest = (&mut self.input).take(MAX_PADDING + 1);
        let mut buffer = vec![0; 64 << 10];
        let mut length = 0;
        let mut is_zero = bytes.iter().all(|byte| *byte == 0);
        loop {
            match rest.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    length += read as u64;
                    is_zero &= buffer[..read].iter().all(|byte| *byte == 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        match is_zero && length <= MAX_PADDING {
            true => Ok(()),
            false => Err(self.fault(at, "", "data after its end")),
        }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        match self.input.read_exact(out) {
            Ok(()) => {
                self.at += out.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), Fault> {
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink());
        let skipped = skipped.map_err(|error| self.failed(error))?;
        self.at += skipped;
        match skipped == length {
            true => Ok(()),
            false => Err(Fault::Truncated { at: self.at }),
        }
    }

    fn failed(&self, error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Truncated { at: self.at },
            _ => Fault::Read(error),
        }
    }

    fn fault(&self, at: u64, path: &str, what: &'static str) -> Fault {
        let path = path.to_owned();
        Fault::Entry { at, path, what }
    }
}

impl<R: Read> Read for Foreign<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        if wanted == 0 {
            return Ok(0);
        }
        match self.input.read(&mut out[..wanted])? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                Fault::Truncated { at: self.at },
            )),
            read => {
                self.left -= read as u64;
                self.at += read as u64;
                Ok(read)
            }
        }
    }
}

/// One header.
struct Head {
    path: String,
    kind: u8,
    size: u64,
    modified: u64,
}

impl Head {
    fn parse(bytes: &Bytes) -> Result<Self, &'static str> {
        let magic = &bytes[header::MAGIC];
        // POSIX, and GNU's of before.
        let is_posix = magic.starts_with(b"ustar\0");
        if !is_posix && magic != b"ustar  \0" {
            return Err("not a tar");
        }
        let sum = header::octal(&bytes[header::CHECKSUM]);
        if sum != Some(u64::from(header::checksum(bytes))) {
            return Err("a header with a wrong checksum");
        }
        let text = |field: &[u8]| {
            let end = field.iter().position(|byte| *byte == 0);
            let text = std::str::from_utf8(&field[..end.unwrap_or(field.len())]);
            text.map(str::to_owned)
                .map_err(|_| "a name that is no UTF-8")
        };
        let mut path = text(&bytes[header::NAME])?;
        // GNU has times in the place of the prefix.
        let prefix = match is_posix {
            true => text(&bytes[header::PREFIX])?,
            false => String::new(),
        };
        if !prefix.is_empty() {
            path = format!("{prefix}/{path}");
        }
        let size = header::size(&bytes[header::SIZE]).ok_or("a size that is no number")?;
        Ok(Self {
            path,
            kind: bytes[header::TYPE],
            size,
            modified: header::octal(&bytes[header::MTIME]).unwrap_or(0),
        })
    }
}

/// A path with plain components only.
fn normal(path: &str) -> Result<String, &'static str> {
    if path.len() > MAX_PATH {
        return Err("a path that is too long");
    }
    if path.is_empty() || path.starts_with('/') || path.contains('\0') {
        return Err("not a relative path");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            // `./a`, as `tar -c .` writes it, and `a/`.
            "" | "." => {}
            ".." => return Err("a path that leads out of it"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests;
