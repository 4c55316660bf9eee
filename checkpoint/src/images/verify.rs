//! Verifies that a directory is a complete checkpoint.
//!
//! CRIU writes the inventory last, so a dump that did not finish has none. The framed
//! files that every checkpoint has are read record by record, which finds files that a
//! full disk or an interrupted copy has truncated. Memory pages have no framing; their
//! pagemap has their number. CRIU 4.2 reads forever and fills its log if pages are
//! missing, so they are counted here.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::dir::Dir;
use super::error::{Error, name};
use super::frame::{Fault, INVENTORY, Records};
use super::proto::{PagemapHead, PagemapRun};
use super::source::Images;

/// Files of records only, present once or per process.
const WALKED: [&str; 7] = [
    "pstree", "core-", "mm-", "pagemap-", "fdinfo-", "ids-", "files",
];

/// Checks that `images` are a checkpoint with complete framed files.
///
/// # Errors
/// The file that is missing or damaged.
pub fn verify<I: Images + ?Sized>(images: &I) -> Result<(), Error> {
    let files = files(images)?;
    let inventory = || images.path().join("inventory.img");
    match walk(images, "inventory.img") {
        Err(Fault::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoInventory {
                dir: images.path().to_owned(),
            });
        }
        Ok(0) => return Err(Error::Truncated { file: inventory() }),
        other => other.map_err(|fault| name(fault, inventory()))?,
    };
    if first_word(images, "inventory.img") != Some(INVENTORY) {
        return Err(Error::NotAnImage { file: inventory() });
    }
    for file in files.keys() {
        if file.ends_with(".img") && WALKED.iter().any(|prefix| file.starts_with(prefix)) {
            walk(images, file).map_err(|fault| name(fault, images.path().join(file)))?;
        }
    }
    check_pagemaps(images, |pages| files.get(pages).copied())
}

fn files<I: Images + ?Sized>(images: &I) -> Result<BTreeMap<String, u64>, Error> {
    let files = Dir(images).files()?;
    Ok(files.into_iter().collect())
}

/// Compares the pagemaps in `images` with the sizes of the page files that they
/// name. Pages without a file come from elsewhere, such as a page server.
pub(crate) fn check_pagemaps<I: Images + ?Sized>(
    images: &I,
    size: impl Fn(&str) -> Option<u64>,
) -> Result<(), Error> {
    for pagemap in files(images)?.into_keys() {
        if !(pagemap.starts_with("pagemap-") && pagemap.ends_with(".img")) {
            continue;
        }
        let (pages, needed) = match needed(images, &pagemap) {
            Ok(found) => found,
            // The CRIU that wrote it may still understand it.
            Err(Fault::Malformed) => continue,
            Err(fault) => return Err(name(fault, images.path().join(pagemap))),
        };
        let file = format!("pages-{pages}.img");
        if size(&file).is_some_and(|size| size < needed) {
            return Err(Error::Truncated {
                file: images.path().join(file),
            });
        }
    }
    Ok(())
}

/// Reads a file to its end and counts its records.
fn walk<I: Images + ?Sized>(images: &I, file: &str) -> Result<usize, Fault> {
    let mut records = Records::open(images, file)?;
    let mut count = 0;
    while records.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The number of a pagemap's pages file, and the bytes it must have.
fn needed<I: Images + ?Sized>(images: &I, file: &str) -> Result<(u32, u64), Fault> {
    // CRIU counts in pages of the machine. With the smallest page size the result never
    // exceeds the size of a complete file.
    const PAGE: u64 = 4096;
    let mut records = Records::open(images, file)?;
    let head: PagemapHead = records.next_message()?.ok_or(Fault::Truncated)?;
    let mut bytes = 0u64;
    while let Some(run) = records.next_message::<PagemapRun>()? {
        if run.is_present() {
            bytes = bytes.saturating_add(run.pages().saturating_mul(PAGE));
        }
    }
    Ok((head.pages_id, bytes))
}

fn first_word<I: Images + ?Sized>(images: &I, file: &str) -> Option<u32> {
    let mut word = [0; 4];
    images.image(file).ok()?.read_exact(&mut word).ok()?;
    Some(u32::from_le_bytes(word))
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
