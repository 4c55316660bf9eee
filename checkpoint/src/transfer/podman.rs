//! Podman's format: the tar that `podman container checkpoint --export` writes, and that
//! CRI-O and the kubelet write, too (checkpointctl, lib/metadata.go, names its files).
//!
//! ```text
//! config.dump      the engine's configuration of the container
//! spec.dump        its OCI configuration
//! network.status   its addresses
//! stats-dump       CRIU's statistics
//! ...              of an imported archive: changes of the file system, volumes, logs
//! checkpoint/      CRIU's images, memory as CRIU wrote it
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde_json::Value;
use tar::{Builder, EntryType, Header};

use super::engine_files::{CONFIG, IMAGES, NETWORK, SPEC, STATS, path_of};
use super::error::{Error, read, write};
use super::podman_config::{config, spec};
use super::root_mode::without_root_mode;
use super::{Context, Report, Source};
use crate::format::contents::Node;
use crate::format::manifest::{Manifest, is_pages};
use crate::images::Images;
use crate::progress::{Phase, Progress};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// zstd's level for the whole archive, which is Podman's.
const LEVEL: i32 = 3;

/// How the archive is compressed (Podman's `--compress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// It is not.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// What Podman needs to create the container. `None` leaves what the checkpoint says.
#[derive(Debug, Clone)]
pub struct PodmanOptions {
    /// How the archive is compressed.
    pub compress: Compress,
    /// The container's name.
    pub name: Option<String>,
    /// The name of its image.
    pub image: Option<String>,
    /// The ID of its image: the SHA-256 of the image's configuration.
    pub image_id: Option<String>,
    /// The runtime that restores it, as Podman knows it.
    pub runtime: Option<String>,
    /// Its OCI configuration.
    pub spec: Option<Value>,
}

/// Writes Podman's format to an empty file. `shown` is the path that the file will have, for
/// messages.
///
/// # Errors
/// The checkpoint is damaged or has no container that Podman could create, or the file can't
/// be written.
pub fn podman(
    source: &Source,
    file: &File,
    shown: &Path,
    options: &PodmanOptions,
    context: &Context<'_>,
) -> Result<Report, Error> {
    let mut manifest = source.described()?;
    let config = config(source, &manifest, options)?;
    let spec = spec(source, &manifest, options)?;
    let mut out = Tar::begin(file, shown, options.compress, &manifest, context)?;
    out.bytes(CONFIG, &config)?;
    out.bytes(SPEC, &spec)?;
    let files = source.contents.files().map_err(read(source.path()))?;
    let engine_path = |name: &str| match name {
        STATS => Some(STATS.to_owned()),
        name => path_of(name),
    };
    let has_network = files
        .iter()
        .any(|(name, _)| path_of(name).as_deref() == Some(NETWORK));
    if !has_network {
        out.bytes(NETWORK, b"{}")?;
    }
    for (name, size) in &files {
        match engine_path(name) {
            Some(path) if ![CONFIG, SPEC].contains(&&*path) => {
                out.file(source, name, *size, &path)?
            }
            _ => {}
        }
    }
    out.directory(IMAGES)?;
    let mut memory = 0_u64;
    let is_podmans = files
        .iter()
        .any(|(name, _)| path_of(name).as_deref() == Some(CONFIG));
    for (name, size) in &files {
        let edited = match source.contents.directory.get(name) {
            Some(Node::File { bytes, .. }) if name == "files.img" && !is_podmans => {
                without_root_mode(bytes)
            }
            _ => None,
        };
        if let Some(edited) = edited {
            out.bytes(&format!("{IMAGES}/{name}"), &edited)?;
        } else if engine_path(name).is_none() {
            out.file(source, name, *size, &format!("{IMAGES}/{name}"))?;
            memory = memory.saturating_add(*size * u64::from(is_pages(name)));
        }
    }
    out.finish()?;
    manifest.signature = None;
    Ok(Report {
        raw_bytes: memory,
        stored_bytes: memory,
        manifest,
    })
}

/// The tar that is being written.
struct Tar<'a> {
    tar: Builder<Sink>,
    shown: &'a Path,
    time: u64,
    context: &'a Context<'a>,
    done: u64,
}

impl<'a> Tar<'a> {
    fn begin(
        file: &File,
        shown: &'a Path,
        compress: Compress,
        manifest: &Manifest,
        context: &'a Context<'a>,
    ) -> Result<Self, Error> {
        let sink = Sink::new(file, compress).map_err(write(shown))?;
        Ok(Self {
            tar: Builder::new(sink),
            shown,
            time: manifest.created,
            context,
            done: 0,
        })
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(size);
        header
    }

    fn directory(&mut self, path: &str) -> Result<(), Error> {
        let mut header = self.header(EntryType::Directory, 0o700, 0);
        let path = format!("{path}/");
        let added = self.tar.append_data(&mut header, path, io::empty());
        added.map_err(write(self.shown))
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut header = self.header(EntryType::Regular, 0o600, bytes.len() as u64);
        let added = self.tar.append_data(&mut header, path, bytes);
        added.map_err(write(self.shown))
    }

    fn file(&mut self, source: &Source, name: &str, size: u64, path: &str) -> Result<(), Error> {
        let from = source.path().join(name);
        let content = source.contents.image(name).map_err(read(&from))?;
        let mut header = self.header(EntryType::Regular, 0o600, size);
        let mut input = Watched {
            content: content.take(size),
            left: size,
            failed: None,
            done: &mut self.done,
            context: self.context,
        };
        let added = self.tar.append_data(&mut header, path, &mut input);
        let (left, failed) = (input.left, input.failed);
        match (added, failed) {
            _ if (self.context.cancelled)() => Err(Error::Cancelled),
            (_, Some(error)) => Err(read(&from)(error)),
            (Err(error), None) => Err(write(self.shown)(error)),
            (Ok(()), None) if left > 0 => Err(read(&from)(io::ErrorKind::UnexpectedEof.into())),
            (Ok(()), None) => Ok(()),
        }
    }

    fn finish(self) -> Result<(), Error> {
        let finished = self.tar.into_inner().and_then(Sink::finish);
        finished.map_err(write(self.shown))
    }
}

/// A content that is being read, whose errors are told from those of the tar.
struct Watched<'a, R> {
    content: R,
    left: u64,
    failed: Option<io::Error>,
    done: &'a mut u64,
    context: &'a Context<'a>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if (self.context.cancelled)() {
            return Err(io::Error::other("cancelled"));
        }
        match self.content.read(out) {
            Ok(length) => {
                self.left -= length as u64;
                *self.done += length as u64;
                (self.context.observer)(Progress {
                    phase: Phase::Compress,
                    raw: *self.done,
                    done: *self.done,
                    stored: *self.done,
                });
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// The file, behind its compression.
enum Sink {
    None(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

impl Sink {
    fn new(file: &File, compress: Compress) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, file.try_clone()?);
        Ok(match compress {
            Compress::None => Self::None(file),
            Compress::Gzip => {
                let level = flate2::Compression::fast();
                Self::Gzip(flate2::write::GzEncoder::new(file, level))
            }
            Compress::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn finish(self) -> io::Result<()> {
        let mut file = match self {
            Self::None(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        file.flush()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
