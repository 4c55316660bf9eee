//! Unpacks a stored checkpoint into the files that CRIU wrote.
//!
//! All processors decode frames and write them to their offsets.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::contents::{Directory, Node};
use super::pages::{Damage, Decoder, FRAME, Reader};
use super::reading::StockFile;

/// The reason that a checkpoint could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint can't be read.
    #[error(transparent)]
    Read(#[from] Damage),
    /// The new file can't be written.
    #[error("cannot write {}: {source}{}", file.display(), if crate::format::publish::is_full(source) { "; make room or choose another directory" } else { "" })]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Unpacks `directory` into the directory `to`. Nothing is synced: publishing syncs all
/// files together, and a restore needs them only while it runs. On an error the files
/// that were written stay.
///
/// # Errors
/// A file can't be read, is damaged, or can't be written.
pub fn unpack(directory: &Directory, to: &Path) -> Result<(), Error> {
    for (name, node) in directory {
        let path = to.join(name);
        let failed = |source| Error::Write {
            file: path.clone(),
            source,
        };
        if let Node::Directory(within) = node {
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(failed)?;
            unpack(within, &path)?;
            continue;
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match node {
            Node::File { bytes, .. } => (&file).write_all(bytes).map_err(failed)?,
            Node::Stock { stored, .. } => {
                let mut source = StockFile {
                    stored: stored.clone(),
                    at: 0,
                };
                io::copy(&mut source, &mut &file).map_err(failed)?;
            }
            Node::Pages { reader, .. } => pages(reader, &file, &path)?,
            Node::Packed(part) => {
                let mut decoder = Decoder::default();
                let mut bytes = vec![0; FRAME as usize];
                let mut at = 0;
                loop {
                    let read = part.read_at(at, &mut decoder, &mut bytes)?;
                    if read == 0 {
                        break;
                    }
                    (&file).write_all(&bytes[..read]).map_err(failed)?;
                    at += read as u64;
                }
            }
            Node::Directory(_) => {}
        }
    }
    Ok(())
}

fn pages(reader: &Reader, file: &File, path: &Path) -> Result<(), Error> {
    let unwritten = |source| Error::Write {
        file: path.to_owned(),
        source,
    };
    // Zeros are left out, and are holes.
    file.set_len(reader.raw_bytes()).map_err(unwritten)?;
    reader.each_frame(|frame, decoder, raw| {
        if reader.is_zeros(frame) {
            return Ok(());
        }
        reader.decode(frame, decoder, raw)?;
        let offset = reader.range(frame).start;
        file.write_all_at(raw, offset).map_err(unwritten)
    })
}

#[cfg(test)]
mod tests {
    use super::super::contents::tests::{by_reference, memory, opened, stored};
    use super::super::contents::{self, Node};
    use super::*;
    use crate::opened::OpenedDir;
    use std::fs;

    #[test]
    fn files_are_those_that_criu_wrote() {
        let (dir, manifest) = stored();
        let open = || opened(dir.path(), &manifest).expect("open").directory;
        let (mut directory, parent) = (open(), open());
        directory.insert("parent".to_owned(), Node::Directory(parent));
        let to = tempfile::tempdir().expect("tempdir");
        unpack(&directory, to.path()).expect("unpack");
        for place in [to.path().to_owned(), to.path().join("parent")] {
            for name in ["pages-1.img", "pages-2.img"] {
                assert!(fs::read(place.join(name)).expect("read") == memory());
            }
            let core = fs::read(dir.path().join("core-1.img")).expect("read");
            assert_eq!(fs::read(place.join("core-1.img")).expect("read"), core);
            crate::images::verify(&place).expect("a checkpoint");
        }
        let names = fs::read_dir(to.path()).expect("list").count();
        assert_eq!(names, 5);
    }

    #[test]
    fn memory_in_the_store_is_unpacked_with_holes_for_zeros() {
        use std::os::unix::fs::MetadataExt;

        let (dir, manifest, stored) = by_reference();
        let at = OpenedDir::open(dir.path()).expect("a directory");
        let contents = contents::open(&at, &manifest, &stored.store()).expect("open");
        let to = tempfile::tempdir().expect("tempdir");
        unpack(&contents.directory, to.path()).expect("unpack");
        let pages = to.path().join("pages-1.img");
        assert!(fs::read(&pages).expect("read") == stored.memory);
        let taken = fs::metadata(&pages).expect("status").blocks() * 512;
        // A megabyte of it is zeros. A file system without holes takes all of it.
        let holes = fs::metadata(holed(to.path())).expect("status").blocks() == 0;
        assert!(!holes || taken <= stored.memory.len() as u64 - (1 << 20));
        crate::images::verify(to.path()).expect("a checkpoint");
    }

    /// A file that is one hole.
    fn holed(dir: &Path) -> PathBuf {
        let path = dir.join("hole");
        let file = File::create(&path).expect("create");
        file.set_len(1 << 20).expect("a hole");
        path
    }

    #[test]
    fn damage_is_named_and_nothing_overwritten() {
        let (dir, manifest) = stored();
        let directory = opened(dir.path(), &manifest).expect("open").directory;
        let path = dir.path().join("pages-1.img.zst");
        let mut bytes = fs::read(&path).expect("read");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("write");
        let to = tempfile::tempdir().expect("tempdir");
        let error = unpack(&directory, to.path()).expect_err("damage");
        assert!(matches!(error, Error::Read(Damage::Frame { frame: 0, .. })));
        let error = unpack(&directory, to.path()).expect_err("the file exists");
        assert!(error.to_string().starts_with("cannot write"), "{error}");
    }
}
