//! The archives in which CRIU stores the files of a tmpfs (criu/filesystems.c,
//! `tmpfs_dump`): compressed tar files, which tar(1) unpacks at the restore.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use tar::Archive;

use crate::images::Error;
use crate::images::dir::Dir;

/// The most bytes that are unpacked. A tmpfs is memory, so this is far more than any.
const MAX_BYTES: u64 = 1 << 40;

/// The paths of the symbolic links in the archive of a tmpfs.
///
/// # Errors
/// The archive can't be read.
pub(super) fn links(dir: &Dir<'_>, device: u32, mount: u32) -> Result<Vec<Vec<u8>>, Error> {
    // The name of CRIU before 2.0 is the mount's.
    let names = [
        format!("tmpfs-dev-{device}.tar.gz.img"),
        format!("tmpfs-{mount}.tar.gz.img"),
    ];
    for name in names {
        let path = dir.0.join(&name);
        match std::fs::File::open(&path) {
            Ok(file) => {
                return read(file).map_err(|source| Error::File { file: path, source });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { file: path, source }),
        }
    }
    Ok(Vec::new())
}

fn read(file: impl Read) -> io::Result<Vec<Vec<u8>>> {
    let mut archive = Archive::new(GzDecoder::new(file).take(MAX_BYTES));
    let mut links = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.header().entry_type().is_symlink() {
            let path = entry.path_bytes();
            links.push(path.strip_prefix(b"./").unwrap_or(&path).to_owned());
        }
    }
    Ok(links)
}
