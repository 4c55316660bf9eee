//! Unpacks a tar of a container's files, by `docker export` or tar(1), which may be
//! hostile.
//!
//! ```text
//! scan    every header: known kinds, bounded extensions, not truncated
//! unpack  each entry below the directory, with owner, mode, times, attributes, links
//! ```
//!
//! Nothing is written before the scan has read the whole tar. The crate tar refuses an
//! entry whose directory is outside, also by a link that an earlier entry made. Devices
//! are left out: runc makes those of a container's configuration.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tar::{Archive, Entry, EntryType, Header};

use super::{Failure, Kind, invalid, unreadable};

const BLOCK: u64 = 512;

/// The most bytes of a header's extension, which is held in memory: a path, and the
/// attributes of one file, which are of 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;

/// The record of a file's attribute in a header's extension.
const ATTRIBUTE: &str = "SCHILY.xattr.";

const NOT_A_TAR: &str = "it is not a tar; a compressed one must be decompressed first";

/// Unpacks a tar into a new directory. Returns how many device files were left out.
///
/// # Errors
/// It is damaged, is no tar, or leads out of the directory. The caller removes the
/// directory.
pub(super) fn unpack(tar: &Path, to: &Path, cancelled: &AtomicBool) -> Result<usize, Failure> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(tar)
        .map_err(|error| unreadable(tar, &error))?;
    let length = match file.metadata() {
        Ok(status) if status.is_file() => status.len(),
        _ => return Err(invalid(tar, "it is neither a directory nor a file")),
    };
    scan(&file, length).map_err(|why| invalid(tar, &why))?;
    let failed = |error: io::Error| failed(tar, cancelled, &error);
    fs::create_dir(to)
        // The daemon's umask would take it from the container's users.
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .map_err(failed)?;
    let mut archive = Archive::new(Cancellable { file, cancelled });
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    let mut skipped = 0;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        if !unpack_entry(&mut entry, to).map_err(failed)? {
            skipped += 1;
        }
    }
    Ok(skipped)
}

/// Unpacks an entry. False if it is a device that the container will miss.
fn unpack_entry(entry: &mut Entry<'_, impl Read>, to: &Path) -> io::Result<bool> {
    let path = entry.path()?.into_owned();
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match entry.header().entry_type() {
        // A container's /dev is a mount.
        EntryType::Char | EntryType::Block => return Ok(path.starts_with("dev")),
        EntryType::Fifo => make_fifo(entry, &path, to).map_err(named)?,
        _ => {
            // It says why in its source.
            let inside = entry
                .unpack_in(to)
                .map_err(|error| named(with_sources(&error)))?;
            if !inside {
                return Err(named(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it leads out of the container's root",
                )));
            }
        }
    }
    set_attributes(entry, &to.join(&path)).map_err(named)?;
    Ok(true)
}

fn with_sources(error: &io::Error) -> io::Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    io::Error::new(error.kind(), text)
}

/// Makes a FIFO, which the crate tar does not.
fn make_fifo(entry: &Entry<'_, impl Read>, path: &Path, to: &Path) -> io::Result<()> {
    let outside = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it leads out of the container's root",
        )
    };
    let plain = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    let place = to.join(path);
    let above = place.parent().unwrap_or(to).canonicalize()?;
    if !plain || !above.starts_with(to.canonicalize()?) {
        return Err(outside());
    }
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData);
    let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
    mkfifo(&place, Mode::S_IRUSR | Mode::S_IWUSR)?;
    std::os::unix::fs::lchown(&place, Some(uid), Some(gid))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(header.mode()? & 0o7777))
}

/// Sets what the entry has of capabilities, access lists and users' attributes.
fn set_attributes(entry: &mut Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
    let Some(records) = entry.pax_extensions()? else {
        return Ok(());
    };
    for record in records {
        let record = record?;
        let Some(name) = record
            .key()
            .ok()
            .and_then(|key| key.strip_prefix(ATTRIBUTE))
        else {
            continue;
        };
        let is_files = name == "security.capability"
            || name.starts_with("system.posix_acl_")
            || name.starts_with("user.");
        if is_files {
            set_attribute(path, name, record.value_bytes()).map_err(|error| {
                io::Error::new(error.kind(), format!("attribute {name}: {error}"))
            })?;
        }
    }
    Ok(())
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    // SAFETY: both texts end with a NUL, and `value` has that length; all outlive the
    // call, which writes to none.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn failed(tar: &Path, cancelled: &AtomicBool, error: &io::Error) -> Failure {
    if cancelled.load(Ordering::Relaxed) {
        return Failure::new(Kind::Cancelled, "cancelled; nothing was changed");
    }
    let (kind, remedy) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Kind::Full, "; make room in /var/lib/cedana/bundles")
        }
        _ => (Kind::Invalid, ""),
    };
    let text = format!("cannot unpack {}: {error}{remedy}", tar.display());
    Failure::new(kind, text)
}

/// A file whose reader fails when the caller has gone.
struct Cancellable<'a> {
    file: File,
    cancelled: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(io::Error::other("cancelled")),
            false => self.file.read(buffer),
        }
    }
}

/// Reads all headers. The reason if it is not a tar that is unpacked.
fn scan(file: &File, length: u64) -> Result<(), String> {
    let truncated = |at: u64| format!("it is truncated (at byte {at}); copy it again");
    let mut at = 0;
    // The size in the extension before a header.
    let mut extended: Option<u64> = None;
    loop {
        let mut header = Header::new_old();
        if at + BLOCK > length {
            return Err(match at {
                0 => NOT_A_TAR.to_owned(),
                _ => truncated(at),
            });
        }
        let unread = |error: io::Error| format!("it cannot be read: {error}");
        file.read_exact_at(header.as_mut_bytes(), at)
            .map_err(unread)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return match at {
                0 => Err("it is empty".to_owned()),
                _ => Ok(()),
            };
        }
        let not_a_tar = || match at {
            0 => NOT_A_TAR.to_owned(),
            _ => format!("it is damaged (at byte {at})"),
        };
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(not_a_tar());
        }
        let size = header.entry_size().map_err(|_| not_a_tar())?;
        let start = at + BLOCK;
        let size = match header.entry_type() {
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                if size > MAX_EXTENSION {
                    return Err(format!("a header is too long (at byte {at})"));
                }
                if header.entry_type() == EntryType::XHeader {
                    let mut text = vec![0; size as usize];
                    let read = file.read_exact_at(&mut text, start);
                    read.map_err(|_| truncated(at))?;
                    extended = size_in(&text).or(extended);
                }
                size
            }
            EntryType::Regular => extended.take().unwrap_or(size),
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Fifo
            | EntryType::Char
            | EntryType::Block => {
                extended = None;
                if size != 0 {
                    return Err(not_a_tar());
                }
                0
            }
            other => {
                return Err(format!(
                    "it has an entry of an unknown kind ({:?}, at byte {at})",
                    char::from(other.as_byte())
                ));
            }
        };
        let end = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|size| start.checked_add(size));
        at = end
            .filter(|end| *end <= length)
            .ok_or_else(|| truncated(at))?;
    }
}

/// The sum of a header's bytes, its own field taken as blanks.
fn checksum(header: &[u8; BLOCK as usize]) -> u32 {
    let sum = |bytes: &[u8]| -> u32 { bytes.iter().map(|byte| u32::from(*byte)).sum() };
    sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..])
}

/// The size in a header's extension, if it has one.
fn size_in(text: &[u8]) -> Option<u64> {
    tar::PaxExtensions::new(text)
        .filter_map(Result::ok)
        .filter(|record| record.key() == Ok("size"))
        .filter_map(|record| record.value().ok()?.parse().ok())
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use tar::Builder;

    fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, text: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        header.set_uid(uid.as_raw().into());
        header.set_gid(gid.as_raw().into());
        header.set_mtime(1);
        header.set_size(text.len() as u64);
        // The crate refuses such names itself.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if !link.is_empty() {
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, text).expect("append");
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<usize, Failure>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let tar = dir.path().join("a.tar");
        fs::write(&tar, bytes).expect("write");
        fs::create_dir(dir.path().join("outside")).expect("mkdir");
        let result = unpack(&tar, &dir.path().join("root"), &AtomicBool::new(false));
        (dir, result)
    }

    fn tar_of(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, link, text) in entries {
            entry(&mut builder, *kind, name, link, text);
        }
        builder.into_inner().expect("a tar")
    }

    #[test]
    fn files_links_and_modes_are_unpacked() {
        let bytes = tar_of(&[
            (EntryType::Directory, "bin/", "", b""),
            (EntryType::Regular, "bin/a", "", b"content"),
            (EntryType::Link, "bin/b", "bin/a", b""),
            (EntryType::Symlink, "sbin", "/bin", b""),
            (EntryType::Fifo, "bin/fifo", "", b""),
            (EntryType::Char, "dev/null", "", b""),
            (EntryType::Char, "null", "", b""),
        ]);
        let (dir, skipped) = unpacked(&bytes);
        assert_eq!(skipped, Ok(1));
        let status = |name: &str| fs::symlink_metadata(dir.path().join("root").join(name));
        let a = status("bin/a").expect("a");
        assert_eq!((a.mode() & 0o7777, a.nlink(), a.mtime()), (0o4755, 2, 1));
        assert!(status("sbin").expect("a link").is_symlink());
        assert_eq!(
            status("bin/fifo").expect("a FIFO").mode() & libc::S_IFMT,
            libc::S_IFIFO
        );
        assert!(status("dev").is_err() && status("null").is_err());
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let hostile: [&[(EntryType, &str, &str, &[u8])]; 5] = [
            &[(EntryType::Regular, "../outside/x", "", b"x")],
            &[
                (EntryType::Symlink, "link", "../outside", b""),
                (EntryType::Regular, "link/x", "", b"x"),
            ],
            &[
                (EntryType::Symlink, "link", "../outside", b""),
                (EntryType::Fifo, "link/x", "", b""),
            ],
            &[(EntryType::Link, "hosts", "../a.tar", b"")],
            &[(EntryType::Fifo, "../outside/x", "", b"")],
        ];
        for entries in hostile {
            let (dir, result) = unpacked(&tar_of(entries));
            let refused = result.expect_err(entries[0].1);
            assert_eq!(refused.kind, Kind::Invalid, "{refused}");
            let outside = fs::read_dir(dir.path().join("outside")).expect("list");
            assert_eq!(outside.count(), 0, "{}", entries[0].1);
        }
    }

    #[test]
    fn what_is_no_whole_tar_is_refused_before_it_is_unpacked() {
        let whole = tar_of(&[
            (EntryType::Directory, "bin/", "", b""),
            (EntryType::Regular, "bin/a", "", &[7; 3000]),
        ]);
        let mut damaged = whole.clone();
        damaged[600] ^= 1;
        let mut unknown = whole.clone();
        unknown[156] = b'S';
        let sum = checksum(unknown[..512].try_into().expect("a block"));
        unknown[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let cases: [(&[u8], &str); 7] = [
            (b"", "not a tar"),
            (&[0; 10240], "empty"),
            (&[1; 1024], "not a tar"),
            (&whole[..600], "truncated"),
            (&whole[..1024 + 2048], "truncated"),
            (&damaged, "damaged"),
            (&unknown, "unknown kind"),
        ];
        for (bytes, why) in cases {
            let (dir, result) = unpacked(bytes);
            let refused = result.expect_err(why);
            assert!(refused.text.contains(why), "{why}: {refused}");
            assert!(!dir.path().join("root").exists(), "{why}");
        }
    }

    #[test]
    fn a_caller_that_has_gone_ends_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let tar = dir.path().join("a.tar");
        fs::write(&tar, tar_of(&[(EntryType::Regular, "a", "", b"x")])).expect("write");
        let gone = AtomicBool::new(true);
        let refused = unpack(&tar, &dir.path().join("root"), &gone).expect_err("gone");
        assert_eq!(refused.kind, Kind::Cancelled);
    }
}
