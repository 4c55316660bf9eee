use super::*;
use crate::format::manifest::{Entry, NAME, StoreReference};
use crate::format::pages::chunks::tests::InStore;
use crate::format::pages::{Compression, Damage, Digest, Encoder, Summary, TableBuilder, Writer};
use crate::images::Images;
use crate::images::verify::tests::whole;
use std::fs::{self, File};

pub(crate) fn opened(dir: &Path, manifest: &Manifest) -> Result<Contents, Error> {
    // A checkpoint that has its memory opens no store.
    let store = Path::new("/none/store");
    open(&OpenedDir::open(dir).expect("a directory"), manifest, store)
}

/// Three pages of memory.
pub(crate) fn memory() -> Vec<u8> {
    (0..3 * 4096u32).map(|n| (n / 7) as u8).collect()
}

fn compressed(path: &Path) -> Summary {
    let mut encoder = Encoder::new(Compression::Zstd { level: 1 }).expect("encoder");
    let mut writer = Writer::new(File::create(path).expect("create"), 4096);
    for page in memory().chunks(4096) {
        let mut frame = Vec::new();
        let digest = encoder.encode(page, &mut frame).expect("encode");
        writer.frame(4096, &frame, digest).expect("frame");
    }
    writer.finish().expect("finish").1
}

/// A checkpoint of one process, with a compressed and a plain page file.
pub(crate) fn stored() -> (tempfile::TempDir, Manifest) {
    let dir = whole();
    let at = |name: &str| dir.path().join(name);
    let mut files = Vec::new();
    for name in ["inventory.img", "core-1.img"] {
        let bytes = fs::read(at(name)).expect("read");
        let digest = blake3::hash(&bytes);
        files.push(Entry::whole(name, Kind::Image, bytes.len() as u64, digest));
    }
    let summary = compressed(&at("pages-1.img.zst"));
    files.push(Entry::pages("pages-1.img.zst", Kind::Pages, &summary));

    let mut table = TableBuilder::new(4096);
    for page in memory().chunks(4096) {
        table.frame(4096, 4096, Digest::of(page)).expect("frame");
    }
    let (trailer, summary) = table.finish();
    fs::write(at("pages-2.img"), memory()).expect("write");
    fs::write(at("pages-2.img.table"), &trailer).expect("write");
    files.push(Entry::pages("pages-2.img", Kind::Plain, &summary));
    let (size, digest) = (trailer.len() as u64, blake3::hash(&trailer));
    files.push(Entry::whole("pages-2.img.table", Kind::Table, size, digest));

    let manifest = Manifest::of(files);
    (dir, manifest)
}

/// The checkpoint of [`stored`], the first page file of which is in a store.
pub(crate) fn by_reference() -> (tempfile::TempDir, Manifest, InStore) {
    let (dir, mut manifest) = stored();
    let stored = InStore::new();
    fs::remove_file(dir.path().join("pages-1.img.zst")).expect("remove");
    let name = "pages-1.img.chunks";
    fs::write(dir.path().join(name), &stored.list).expect("write");
    manifest.files.retain(|entry| entry.kind != Kind::Pages);
    let entry = Entry::chunks(name, &stored.list, stored.memory.len() as u64);
    manifest.files.push(entry);
    manifest.store = Some(StoreReference {
        id: stored.id.to_string(),
    });
    manifest.format = Manifest::format_of(&manifest.files);
    fs::write(dir.path().join(NAME), manifest.render().expect("render")).expect("write");
    (dir, manifest, stored)
}

#[test]
fn memory_is_read_from_the_store() {
    let (dir, manifest, stored) = by_reference();
    let at = OpenedDir::open(dir.path()).expect("a directory");
    let contents = open(&at, &manifest, &stored.store()).expect("open");
    // All that is needed is open.
    fs::remove_dir_all(stored.store()).expect("remove");
    fs::remove_file(dir.path().join("pages-1.img.chunks")).expect("remove");
    let mut read = Vec::new();
    let mut image = contents.image("pages-1.img").expect("open");
    image.read_to_end(&mut read).expect("read");
    assert!(read == stored.memory);
    let error = open(&at, &manifest, &stored.store()).expect_err("no list");
    assert!(error.to_string().contains("pages-1.img.chunks"), "{error}");
}

#[test]
fn memory_that_is_not_there_is_found_before_it_is_read() {
    let (dir, mut manifest, stored) = by_reference();
    let error = opened(dir.path(), &manifest).expect_err("another node");
    assert!(error.to_string().contains("/none/store"), "{error}");
    for pack in stored.packs() {
        fs::remove_file(pack).expect("remove");
    }
    let at = OpenedDir::open(dir.path()).expect("a directory");
    let open = |manifest: &Manifest| open(&at, manifest, &stored.store()).expect_err("missing");
    let error = open(&manifest).to_string();
    assert!(error.contains("is not in the store"), "{error}");
    let list = manifest.files.last_mut().expect("the list");
    list.digest = blake3::hash(b"another").to_hex().to_string();
    let error = open(&manifest);
    assert!(
        matches!(error, Error::Pages(Damage::Foreign { .. })),
        "{error}"
    );
}

#[test]
fn a_list_of_other_memory_is_refused() {
    let (dir, mut manifest, stored) = by_reference();
    let pages = manifest
        .files
        .last_mut()
        .and_then(|list| list.pages.as_mut());
    pages.expect("the list").raw_size -= 4096;
    let at = OpenedDir::open(dir.path()).expect("a directory");
    let error = open(&at, &manifest, &stored.store()).expect_err("other memory");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[test]
fn a_list_in_an_archive_is_as_one_in_a_directory() {
    let (dir, manifest, stored) = by_reference();
    let path = dir.path().join("checkpoint.tar");
    let mut archive = tar::Builder::new(File::create(&path).expect("create"));
    for name in manifest
        .files
        .iter()
        .map(|entry| &*entry.name)
        .chain([NAME])
    {
        let bytes = fs::read(dir.path().join(name)).expect("read");
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(tar::EntryType::Regular);
        let appended = archive.append_data(&mut header, name, &bytes[..]);
        appended.expect("append");
    }
    archive.finish().expect("finish");
    let at = OpenedDir::open_any(&path).expect("an archive");
    let manifest = Manifest::read(&at).expect("read").expect("a manifest");
    let contents = open(&at, &manifest, &stored.store()).expect("open");
    let mut read = Vec::new();
    let mut image = contents.image("pages-1.img").expect("open");
    image.read_to_end(&mut read).expect("read");
    assert!(read == stored.memory);
}

#[test]
fn names_are_those_that_criu_gave() {
    let (dir, manifest) = stored();
    let directory = opened(dir.path(), &manifest).expect("open").directory;
    let names: Vec<&str> = directory.keys().map(String::as_str).collect();
    let expected = ["core-1.img", "inventory.img", "pages-1.img", "pages-2.img"];
    assert_eq!(names, expected);
}

#[test]
fn changed_missing_and_foreign_files_are_named() {
    for (name, bytes) in [
        ("core-1.img", Some(&b"another"[..])),
        ("core-1.img", None),
        ("inventory.img", Some(b"")),
        (
            "pages-1.img.zst",
            Some(b"another, long enough for a footer"),
        ),
        ("pages-1.img.zst", None),
        ("pages-2.img", Some(b"shorter")),
        ("pages-2.img.table", None),
    ] {
        let (dir, manifest) = stored();
        let path = dir.path().join(name);
        match bytes {
            Some(bytes) => fs::write(&path, bytes).expect("write"),
            None => fs::remove_file(&path).expect("remove"),
        }
        let error = opened(dir.path(), &manifest).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
    let (dir, manifest) = stored();
    let core = dir.path().join("core-1.img");
    fs::rename(&core, dir.path().join("elsewhere")).expect("rename");
    std::os::unix::fs::symlink("elsewhere", &core).expect("link");
    let error = opened(dir.path(), &manifest)
        .expect_err("a link")
        .to_string();
    assert!(error.contains("symbolic link"), "{error}");
    let (dir, manifest) = stored();
    let pages = dir.path().join("pages-1.img.zst");
    fs::hard_link(&pages, dir.path().join("second")).expect("link");
    let error = opened(dir.path(), &manifest)
        .expect_err("two links")
        .to_string();
    assert!(error.contains("hard links"), "{error}");
}
/// A directory above two checkpoints, `first` and `second`, with the manifest of the
/// second. The first has one if `described`.
fn pair(described: bool) -> (tempfile::TempDir, Manifest) {
    let above = tempfile::tempdir().expect("tempdir");
    let ((first, first_manifest), (second, manifest)) = (stored(), stored());
    if described {
        let text = first_manifest.render().expect("render");
        fs::write(first.path().join(NAME), text).expect("write");
    }
    for (from, name) in [(first, "first"), (second, "second")] {
        fs::rename(from.keep(), above.path().join(name)).expect("rename");
    }
    (above, manifest)
}

#[test]
fn parents_are_subdirectories() {
    for (described, name) in [(true, "pages-1.img"), (false, "pages-2.img")] {
        let (above, mut manifest) = pair(described);
        let second = above.path().join("second");
        manifest.parent = Some("../first".to_owned());
        let directory = opened(&second, &manifest).expect("open").directory;
        let Some(Node::Directory(found)) = directory.get(PARENT) else {
            panic!("no parent");
        };
        assert!(found.contains_key(name), "{found:?}");

        // A stock checkpoint names its parent by a link, or has it as a subdirectory.
        let link = second.join(PARENT);
        std::os::unix::fs::symlink("../first", &link).expect("symlink");
        let found = opened_stock(&second).expect("open").directory;
        assert!(matches!(found.get(PARENT), Some(Node::Directory(_))));
        fs::remove_file(&link).expect("remove");
        fs::rename(above.path().join("first"), &link).expect("rename");
        let found = opened_stock(&second).expect("open").directory;
        assert!(matches!(found.get(PARENT), Some(Node::Directory(_))));
    }
}

#[test]
fn a_parent_that_is_no_sibling_is_refused() {
    let (above, mut manifest) = pair(true);
    let second = above.path().join("second");
    std::os::unix::fs::symlink("first", above.path().join("link")).expect("symlink");
    for parent in [
        "..",
        "../..",
        "/",
        "../second/../first",
        "../link",
        "../none",
    ] {
        manifest.parent = Some(parent.to_owned());
        let error = opened(&second, &manifest).expect_err(parent);
        assert!(matches!(error, Error::Parent { .. }), "{error}");
        let link = second.join(PARENT);
        std::os::unix::fs::symlink(parent, &link).expect("symlink");
        let error = opened_stock(&second).expect_err(parent);
        assert!(matches!(error, Error::Parent { .. }), "{error}");
        fs::remove_file(link).expect("remove");
    }
    manifest.parent = Some("../second".to_owned());
    let text = manifest.render().expect("render");
    fs::write(second.join(NAME), text).expect("write");
    let endless = opened(&second, &manifest);
    assert!(matches!(endless, Err(Error::TooManyParents { .. })));
}

fn opened_stock(dir: &Path) -> Result<Contents, Error> {
    stock(
        &OpenedDir::open(dir).expect("a directory"),
        Path::new("/none/store"),
    )
}

#[test]
fn files_that_the_manifest_does_not_list_are_not_read() {
    let (dir, manifest) = stored();
    nix::unistd::mkfifo(
        &dir.path().join("core-2.img"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("mkfifo");
    fs::write(dir.path().join("pagemap-9.img"), "no image").expect("write");
    let contents = opened(dir.path(), &manifest).expect("open");
    for name in ["core-2.img", "pagemap-9.img"] {
        assert!(!contents.directory.contains_key(name));
        assert!(contents.image(name).is_err());
    }
    // Without a manifest every image counts, and a pipe is none.
    let error = opened_stock(dir.path()).expect_err("a pipe").to_string();
    assert!(error.contains("core-2.img"), "{error}");
    fs::remove_file(dir.path().join("core-2.img")).expect("remove");
    fs::write(dir.path().join("dump.log"), "a log").expect("write");
    fs::write(dir.path().join("descriptors.json"), "[]").expect("write");
    let contents = opened_stock(dir.path()).expect("open");
    let names: Vec<_> = contents.directory.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "core-1.img",
            "descriptors.json",
            "inventory.img",
            "pagemap-9.img",
            "pages-2.img"
        ]
    );
    assert!(matches!(
        contents.directory["pages-2.img"],
        Node::Stock { .. }
    ));
}

#[test]
fn what_was_verified_is_what_is_read() {
    let (dir, manifest) = stored();
    let contents = opened(dir.path(), &manifest).expect("open");
    let core = dir.path().join("core-1.img");
    let before = fs::read(&core).expect("read");
    fs::write(&core, "changed after it was verified").expect("write");
    let mut read = Vec::new();
    let mut image = contents.image("core-1.img").expect("open");
    image.read_to_end(&mut read).expect("read");
    assert_eq!(read, before);
    let listed = contents.files().expect("list");
    assert!(listed.contains(&("core-1.img".to_owned(), before.len() as u64)));
}

#[test]
fn files_beyond_the_memory_limit_are_verified_when_they_are_read() {
    let (dir, manifest) = stored();
    let at = OpenedDir::open(dir.path()).expect("open");
    let open = || {
        let mut opening = Opening {
            memory: 20,
            ..Opening::new(Path::new("/none/store"))
        };
        opening.ours(&at, &manifest)
    };
    let contents = open().expect("open");
    assert!(matches!(
        contents.directory["inventory.img"],
        Node::File { .. }
    ));
    assert!(matches!(
        contents.directory["core-1.img"],
        Node::Pages { .. }
    ));
    let read = || {
        let mut read = Vec::new();
        let mut image = contents.image("core-1.img").expect("open");
        image.read_to_end(&mut read).map(|_| read)
    };
    let path = dir.path().join("core-1.img");
    let mut bytes = fs::read(&path).expect("read");
    assert_eq!(read().expect("verified"), bytes);
    bytes[5] ^= 1;
    fs::write(&path, bytes).expect("write");
    assert!(read().is_err(), "it was changed");
    let error = open().expect_err("damage").to_string();
    assert!(error.contains("core-1.img"), "{error}");
}
