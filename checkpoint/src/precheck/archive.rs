//! The archives in which CRIU stores the files of a tmpfs (criu/filesystems.c,
//! `tmpfs_dump`): compressed tar files, which tar(1) unpacks as root at the restore.
//!
//! The archive is read as tar(1) reads it: all members of a gzip file, GNU's and POSIX'
//! long names, names with needless dots and slashes. What is kept in memory is bounded.
//! Devices may be in it: a runtime makes some in /dev, and the container's devices cgroup
//! decides which of them can be opened.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::granted::Granted;
use crate::images::Error;
use crate::images::dir::Dir;

/// The longest name, which is that of a path (`PATH_MAX`), and a record's other words.
const MAX_NAME: u64 = 16 << 10;

/// The most links. A distribution's /etc and /usr have some thousand.
const MAX_LINKS: usize = 1 << 18;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The paths of symbolic links.
    pub(super) links: HashSet<Vec<u8>>,
    /// The first entry that the container could not have made.
    pub(super) strange: Option<String>,
}

/// Reads the archive of a tmpfs; nothing if there is none.
///
/// # Errors
/// The archive can't be read.
pub(super) fn read(
    dir: &Dir<'_>,
    device: u32,
    mount: u32,
    granted: &Granted,
) -> Result<Contents, Error> {
    // The name of CRIU before 2.0 is the mount's.
    let names = [
        format!("tmpfs-dev-{device}.tar.gz.img"),
        format!("tmpfs-{mount}.tar.gz.img"),
    ];
    for name in names {
        let path = dir.0.join(&name);
        match File::open(&path) {
            Ok(file) => {
                return entries(file, granted).map_err(|source| Error::File { file: path, source });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { file: path, source }),
        }
    }
    Ok(Contents::default())
}

fn entries(file: impl Read, granted: &Granted) -> io::Result<Contents> {
    let is_root = granted.user.uid == 0;
    let mut contents = Contents::default();
    let mut archive = Archive::new(MultiGzDecoder::new(file));
    let mut long_name: Option<Vec<u8>> = None;
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                long_name = Some(text(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                text(&mut entry)?;
                continue;
            }
            EntryType::XHeader | EntryType::XGlobalHeader => {
                let records = text(&mut entry)?;
                long_name = posix_path(&records).or(long_name);
                continue;
            }
            _ => {}
        }
        let name = long_name
            .take()
            .unwrap_or_else(|| entry.path_bytes().into_owned());
        let Some(name) = plain(&name) else {
            contents.note("has a file whose name leads out of it");
            continue;
        };
        let mode = entry.header().mode().unwrap_or(0);
        let is_link = match kind {
            EntryType::Symlink => true,
            // Another name of a link is a link.
            EntryType::Link => entry
                .link_name_bytes()
                .and_then(|target| plain(&target))
                .is_none_or(|target| contents.links.contains(&target)),
            _ => false,
        };
        if mode & SET_ID != 0 && !is_root && kind.is_file() {
            contents.note("has a set-user-ID program");
        }
        if is_link {
            if contents.links.len() == MAX_LINKS {
                return Err(io::Error::other("more links than any tmpfs has"));
            }
            contents.links.insert(name);
        }
    }
    Ok(contents)
}

impl Contents {
    fn note(&mut self, what: &str) {
        self.strange.get_or_insert_with(|| what.to_owned());
    }
}

/// The text of an entry that describes the next one.
fn text(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_NAME {
        return Err(io::Error::other("a name that is longer than any path"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    if text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

/// The path in records of the form `LENGTH path=VALUE` (POSIX, pax).
fn posix_path(records: &[u8]) -> Option<Vec<u8>> {
    records.split(|byte| *byte == b'\n').find_map(|record| {
        let space = record.iter().position(|byte| *byte == b' ')?;
        Some(record[space + 1..].strip_prefix(b"path=")?.to_owned())
    })
}

/// A name without needless dots and slashes; `None` if it leads out of the archive.
fn plain(name: &[u8]) -> Option<Vec<u8>> {
    let parts = name.split(|byte| *byte == b'/');
    let mut plain = Vec::new();
    for part in parts {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => {
                if !plain.is_empty() {
                    plain.push(b'/');
                }
                plain.extend(part);
            }
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_tar_unpacks() {
        assert_eq!(plain(b"././a//b/./c"), Some(b"a/b/c".to_vec()));
        assert_eq!(plain(b"./"), Some(Vec::new()));
        assert_eq!(plain(b"a/../b"), None);
        assert_eq!(
            posix_path(b"30 mtime=1\n14 path=a/b c\n"),
            Some(b"a/b c".to_vec())
        );
    }
}
