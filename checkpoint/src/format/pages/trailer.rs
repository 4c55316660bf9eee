//! Opens files and reads their trailers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use super::damage::Damage;
use super::table::{FOOTER, Malformed, Table};

/// Opens a regular file only: a link can lead to any file, and a pipe would block.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}

pub(super) fn open(path: &Path) -> Result<(File, u64), Damage> {
    let open = || {
        let file = open_regular(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    open().map_err(|source| Damage::Read {
        file: path.to_owned(),
        source,
    })
}

pub(super) fn unfit(path: &Path) -> Damage {
    Damage::Trailer {
        file: path.to_owned(),
        why: Malformed::LENGTH,
    }
}

/// Reads the unverified trailer at the end of a file. It is not longer than the file.
pub(super) fn trailer_of(file: &File, length: u64, path: &Path) -> Result<Vec<u8>, Damage> {
    let read = |bytes: &mut [u8]| {
        let start = length.saturating_sub(bytes.len() as u64);
        file.read_exact_at(bytes, start)
            .map_err(|source| Damage::Read {
                file: path.to_owned(),
                source,
            })
    };
    let mut footer = [0; FOOTER];
    if length < FOOTER as u64 {
        return Err(unfit(path));
    }
    read(&mut footer)?;
    let trailer = Table::length(footer).map_err(|why| Damage::Trailer {
        file: path.to_owned(),
        why,
    })?;
    if trailer > length {
        return Err(unfit(path));
    }
    let mut bytes = vec![0; trailer as usize];
    read(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn check(
    path: &Path,
    trailer: &[u8],
    digest: Option<blake3::Hash>,
) -> Result<Table, Damage> {
    if digest.is_some_and(|digest| digest != blake3::hash(trailer)) {
        return Err(Damage::Foreign {
            file: path.to_owned(),
        });
    }
    Table::parse(trailer).map_err(|why| Damage::Trailer {
        file: path.to_owned(),
        why,
    })
}
