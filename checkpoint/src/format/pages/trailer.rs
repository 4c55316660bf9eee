//! Reads the trailers of page files.

use std::path::Path;

use super::damage::Damage;
use super::table::{FOOTER, Malformed, Table};
use crate::opened::Part;

/// The length of an open file.
pub(super) fn length(file: &Part, path: &Path) -> Result<u64, Damage> {
    file.length().map_err(|source| Damage::Read {
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

/// Reads the unverified trailer at the end of a file. It is not longer than the file, and
/// has as many frames as the manifest says, if that is known.
pub(super) fn trailer_of(
    file: &Part,
    length: u64,
    path: &Path,
    frames: Option<u64>,
) -> Result<Vec<u8>, Damage> {
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
    if trailer > length || frames.is_some_and(|frames| Table::length_of(frames) != trailer) {
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
