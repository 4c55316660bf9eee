//! Verifies that a directory is a complete checkpoint.
//!
//! CRIU writes the inventory last, so a dump that did not finish has none. The framed
//! files that every checkpoint has are read record by record, which finds files that a
//! full disk or an interrupted copy has truncated. Memory pages have no framing; their
//! pagemap has their number. CRIU 4.2 reads forever and fills its log if pages are
//! missing, so they are counted here.

use std::io;
use std::path::{Path, PathBuf};

use super::frame::{Fault, INVENTORY, Records};
use super::proto::{PagemapHead, PagemapRun};

/// Files of records only, present once or per process.
const WALKED: [&str; 7] = [
    "pstree", "core-", "mm-", "pagemap-", "fdinfo-", "ids-", "files",
];

/// The reason that a directory is not a complete checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such directory, or it can't be read.
    #[error("the checkpoint {} cannot be read: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory without an inventory.
    #[error("{} is not a checkpoint: it has no inventory.img; the checkpoint did not finish, or the path is wrong", dir.display())]
    NoInventory {
        /// The directory.
        dir: PathBuf,
    },
    /// One of its files can't be read.
    #[error("the checkpoint's {} cannot be read: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// One of its files is not a CRIU image.
    #[error("the checkpoint's {} is not a CRIU image: it was overwritten or damaged; take the checkpoint again or restore another", file.display())]
    NotAnImage {
        /// The file.
        file: PathBuf,
    },
    /// One of its files has a record that this version does not know.
    #[error("the checkpoint's {} has a record that this version does not understand; a newer cedana-runc or CRIU may have written it", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
    /// One of its files has more records than the reader accepts.
    #[error("the checkpoint's {} has more entries than any container: it was not written by CRIU", file.display())]
    TooMany {
        /// The file.
        file: PathBuf,
    },
    /// One of its files ends too early.
    #[error("the checkpoint's {} is truncated: the copy or the disk was cut short; take the checkpoint again or restore another", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
    },
}

/// Checks that `dir` has a checkpoint with complete framed files.
///
/// # Errors
/// The file that is missing or damaged.
pub fn verify(dir: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::Directory {
        dir: dir.to_owned(),
        source,
    };
    let entries = dir.read_dir().map_err(unreadable)?;
    let inventory = dir.join("inventory.img");
    match walk(&inventory) {
        Err(Fault::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoInventory {
                dir: dir.to_owned(),
            });
        }
        Ok(0) => return Err(Error::Truncated { file: inventory }),
        other => other.map_err(|fault| name(fault, inventory.clone()))?,
    };
    if first_word(&inventory) != Some(INVENTORY) {
        return Err(Error::NotAnImage { file: inventory });
    }
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let file_name = entry.file_name();
        let walked = file_name.to_str().is_some_and(|name| {
            name.ends_with(".img") && WALKED.iter().any(|prefix| name.starts_with(prefix))
        });
        if walked {
            walk(&entry.path()).map_err(|fault| name(fault, entry.path()))?;
        }
    }
    check_pagemaps(dir, |pages| {
        let metadata = dir.join(pages).metadata().ok()?;
        Some(metadata.len())
    })
}

/// Compares the pagemaps in `dir` with the sizes of the page files that they
/// name. Pages without a file come from elsewhere, such as a page server.
pub(crate) fn check_pagemaps(dir: &Path, size: impl Fn(&str) -> Option<u64>) -> Result<(), Error> {
    let unreadable = |source| Error::Directory {
        dir: dir.to_owned(),
        source,
    };
    for entry in dir.read_dir().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_pagemap = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("pagemap-") && name.ends_with(".img"));
        if is_pagemap {
            let (pages, needed) = match needed(&entry.path()) {
                Ok(found) => found,
                // The CRIU that wrote it may still understand it.
                Err(Fault::Malformed) => continue,
                Err(fault) => return Err(name(fault, entry.path())),
            };
            let file = format!("pages-{pages}.img");
            if size(&file).is_some_and(|size| size < needed) {
                return Err(Error::Truncated {
                    file: dir.join(file),
                });
            }
        }
    }
    Ok(())
}

/// Reads a file to its end and counts its records.
fn walk(file: &Path) -> Result<usize, Fault> {
    let mut records = Records::open(file)?;
    let mut count = 0;
    while records.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The number of a pagemap's pages file, and the bytes it must have.
fn needed(file: &Path) -> Result<(u32, u64), Fault> {
    // CRIU counts in pages of the machine. With the smallest page size the result never
    // exceeds the size of a complete file.
    const PAGE: u64 = 4096;
    let mut records = Records::open(file)?;
    let head: PagemapHead = records.next_message()?.ok_or(Fault::Truncated)?;
    let mut bytes = 0u64;
    while let Some(run) = records.next_message::<PagemapRun>()? {
        if run.is_present() {
            bytes = bytes.saturating_add(run.pages().saturating_mul(PAGE));
        }
    }
    Ok((head.pages_id, bytes))
}

fn first_word(file: &Path) -> Option<u32> {
    use std::io::Read;
    let mut word = [0; 4];
    std::fs::File::open(file).ok()?.read_exact(&mut word).ok()?;
    Some(u32::from_le_bytes(word))
}

pub(crate) fn name(fault: Fault, file: PathBuf) -> Error {
    match fault {
        Fault::Read(source) => Error::File { file, source },
        Fault::Malformed => Error::Unknown { file },
        Fault::TooMany => Error::TooMany { file },
        Fault::NotAnImage => Error::NotAnImage { file },
        Fault::Truncated => Error::Truncated { file },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    pub(crate) fn whole() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut inventory = INVENTORY.to_le_bytes().to_vec();
        inventory.extend(2u32.to_le_bytes());
        inventory.extend([8, 1]);
        fs::write(dir.path().join("inventory.img"), inventory).expect("write");
        let mut core = 0x5456_4319u32.to_le_bytes().to_vec();
        core.extend(0x5505_3847u32.to_le_bytes());
        core.extend(3u32.to_le_bytes());
        core.extend([8, 1, 0]);
        fs::write(dir.path().join("core-1.img"), core).expect("write");
        dir
    }

    #[test]
    fn whole_checkpoint_passes() {
        verify(whole().path()).expect("whole");
    }

    #[test]
    fn missing_and_empty_directories() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(matches!(verify(dir.path()), Err(Error::NoInventory { .. })));
        let gone = dir.path().join("gone");
        assert!(matches!(verify(&gone), Err(Error::Directory { .. })));
    }

    #[test]
    fn every_truncation_is_found() {
        for (file, least) in [("inventory.img", 0), ("core-1.img", 9)] {
            let dir = whole();
            let path = dir.path().join(file);
            let bytes = fs::read(&path).expect("read");
            for end in least..bytes.len() {
                fs::write(&path, &bytes[..end]).expect("write");
                assert!(
                    matches!(verify(dir.path()), Err(Error::Truncated { .. })),
                    "{file} cut to {end}"
                );
            }
        }
    }

    #[test]
    fn missing_pages_are_found() {
        let dir = whole();
        let mut pagemap = 0x5456_4319u32.to_le_bytes().to_vec();
        pagemap.extend(0x5608_4025u32.to_le_bytes());
        for record in [
            &[8u8, 7][..],
            &[8, 0, 16, 3, 32, 4],
            &[8, 0, 16, 100, 32, 1],
        ] {
            pagemap.extend((record.len() as u32).to_le_bytes());
            pagemap.extend(record);
        }
        fs::write(dir.path().join("pagemap-1.img"), pagemap).expect("write");
        verify(dir.path()).expect("pages from elsewhere");
        let pages = dir.path().join("pages-7.img");
        fs::write(&pages, vec![0; 3 * 4096]).expect("write");
        verify(dir.path()).expect("whole");
        fs::write(&pages, vec![0; 3 * 4096 - 1]).expect("write");
        assert!(matches!(verify(dir.path()), Err(Error::Truncated { .. })));
    }

    #[test]
    fn foreign_content_is_named() {
        let dir = whole();
        fs::write(dir.path().join("inventory.img"), "hello, world").expect("write");
        assert!(matches!(verify(dir.path()), Err(Error::NotAnImage { .. })));
    }

    proptest! {
        #[test]
        fn no_content_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let dir = whole();
            fs::write(dir.path().join("pstree.img"), &bytes).expect("write");
            let _ = verify(dir.path());
            let mut framed = fs::read(dir.path().join("core-1.img")).expect("read");
            framed.extend(&bytes);
            fs::write(dir.path().join("core-1.img"), framed).expect("write");
            let _ = verify(dir.path());
        }
    }
}
