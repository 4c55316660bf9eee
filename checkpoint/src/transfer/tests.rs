use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::format::contents::tests::{memory, stored};
use crate::format::manifest;
use crate::images::Images;
use crate::opened::OpenedDir;

const NEVER: fn() -> bool = || false;
const NOTHING: fn(crate::progress::Progress) = |_| {};

fn context() -> Context<'static> {
    Context {
        store: Path::new("/nowhere"),
        compression: Compression::Zstd { level: 1 },
        key: None,
        cancelled: &NEVER,
        observer: &NOTHING,
    }
}

fn source(path: &Path) -> Source {
    Source::new(
        OpenedDir::open_any(path).expect("open"),
        Path::new("/nowhere"),
    )
    .expect("a checkpoint")
}

/// The checkpoint of [`stored`], with its manifest in it.
fn ours() -> tempfile::TempDir {
    let (dir, mut manifest) = stored();
    manifest.container.id = "web".to_owned();
    manifest.container.spec = Some(json!({"linux": {"namespaces": [{"type": "network"}]}}));
    let text = manifest.render().expect("small");
    fs::write(dir.path().join(manifest::NAME), text).expect("write");
    dir
}

/// The raw files of an archive.
fn raw(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let source = source(path);
    let files = source.contents.files().expect("files");
    let read = |(name, _): (String, u64)| {
        let mut bytes = Vec::new();
        let mut image = source.contents.image(&name).expect("a file");
        image.read_to_end(&mut bytes).expect("read");
        (name, bytes)
    };
    files.into_iter().map(read).collect()
}

fn exported(from: &Path, to: &Path) -> Result<Report, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to);
    archive(&source(from), &file.expect("create"), to, &context())
}

fn podman_options() -> PodmanOptions {
    PodmanOptions {
        compress: Compress::None,
        name: None,
        image: Some("docker.io/library/busybox:latest".to_owned()),
        image_id: Some(format!("sha256:{}", "0a".repeat(32))),
        runtime: None,
        spec: None,
    }
}

fn for_podman(from: &Path, to: &Path, options: &PodmanOptions) -> Result<Report, Error> {
    let file = File::create_new(to).expect("create");
    podman(&source(from), &file, to, options, &context())
}

fn imported(from: &Path, to: &Path) -> Result<Report, Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to);
    import(
        File::open(from).expect("open"),
        from,
        &file.expect("create"),
        to,
        &context(),
    )
}

/// The files of a plain tar.
fn tar_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(File::open(path).expect("open"));
    let entries = tar.entries().expect("entries");
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("read");
        (path, bytes)
    };
    entries.map(read).collect()
}

/// A tar of these files, in this order.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(1_767_323_045);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, Cursor::new(bytes))
            .expect("append");
    }
    tar.into_inner().expect("a tar")
}

#[test]
fn what_is_stored_here_is_copied_with_its_manifest() {
    let dir = ours();
    let out = tempfile::tempdir().expect("tempdir");
    let (first, second) = (out.path().join("1.tar"), out.path().join("2.tar"));
    let report = exported(dir.path(), &first).expect("exported");
    assert_eq!(report.raw_bytes, 2 * memory().len() as u64);
    let copied = tar_files(&first);
    for name in ["pages-1.img.zst", "pages-2.img.table", manifest::NAME] {
        assert!(
            copied[name] == fs::read(dir.path().join(name)).expect("read"),
            "{name}"
        );
    }
    // An archive is exported as its directory is.
    exported(&first, &second).expect("exported");
    assert!(tar_files(&first) == tar_files(&second));
    assert!(raw(&first)["pages-1.img"] == memory());
}

#[test]
fn a_stock_checkpoint_gets_a_manifest_and_is_compressed() {
    let dir = ours();
    for name in [manifest::NAME, "pages-1.img.zst", "pages-2.img.table"] {
        fs::remove_file(dir.path().join(name)).expect("remove");
    }
    let out = tempfile::tempdir().expect("tempdir");
    let to = out.path().join("1.tar");
    let report = exported(dir.path(), &to).expect("exported");
    assert!(report.stored_bytes < report.raw_bytes, "{report:?}");
    assert!(raw(&to)["pages-2.img"] == memory());
    assert_eq!(source(&to).manifest, Some(report.manifest));
}

#[test]
fn damage_is_found_and_named() {
    let dir = ours();
    let out = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pages-1.img.zst");
    let mut bytes = fs::read(&path).expect("read");
    bytes[20] ^= 1;
    fs::write(&path, bytes).expect("write");
    let error = exported(dir.path(), &out.path().join("1.tar")).expect_err("damage");
    assert!(
        error.to_string().contains(&*path.display().to_string()),
        "{error}"
    );
    let error = for_podman(dir.path(), &out.path().join("2.tar"), &podman_options());
    let error = error.expect_err("damage").to_string();
    assert!(error.contains("pages-1.img"), "{error}");
}

#[test]
fn podman_s_format_has_raw_memory_and_comes_back() {
    let dir = ours();
    let out = tempfile::tempdir().expect("tempdir");
    for (compress, magic) in [
        (Compress::None, &b"config.dump"[..]),
        (Compress::Gzip, &[0x1f, 0x8b]),
        (Compress::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
    ] {
        let to = out.path().join(format!("{compress:?}.tar"));
        let options = PodmanOptions {
            compress,
            ..podman_options()
        };
        for_podman(dir.path(), &to, &options).expect("exported");
        assert!(
            fs::read(&to).expect("read").starts_with(magic),
            "{compress:?}"
        );
        let back = out.path().join(format!("{compress:?}-back.tar"));
        let report = imported(&to, &back).expect("imported");
        // That of Podman's container, which has 64 digits.
        assert_eq!(report.manifest.container.id.len(), 64);
        let raw = raw(&back);
        assert!(raw["pages-1.img"] == memory() && raw["pages-2.img"] == memory());
        assert!(raw.contains_key("engine.config.dump"), "{:?}", raw.keys());
        // What was imported is exported as it came.
        let again = out.path().join(format!("{compress:?}-again.tar"));
        let nothing = PodmanOptions {
            image: None,
            image_id: None,
            ..podman_options()
        };
        for_podman(&back, &again, &nothing).expect("exported");
        if compress == Compress::None {
            assert!(tar_files(&to) == tar_files(&again));
        }
    }
    let files = tar_files(&out.path().join("None.tar"));
    assert!(files["checkpoint/pages-1.img"] == memory());
    let config: Value = serde_json::from_slice(&files["config.dump"]).expect("JSON");
    assert_eq!(config["rootfsImageID"], "0a".repeat(32));
    assert_eq!(
        (&config["name"], &config["createNetNS"]),
        (&json!("web"), &json!(true))
    );
    assert_eq!(config["id"].as_str().map(str::len), Some(64));
}

#[test]
fn podman_needs_an_image_and_a_container() {
    let dir = ours();
    let out = tempfile::tempdir().expect("tempdir");
    for (image, id, why) in [
        (None, None, "--image NAME"),
        (Some("busybox"), None, "--image-id"),
        (Some("busybox"), Some("123"), "64 hexadecimal digits"),
    ] {
        let options = PodmanOptions {
            image: image.map(str::to_owned),
            image_id: id.map(str::to_owned),
            ..podman_options()
        };
        let to = out.path().join(format!("{image:?}{id:?}"));
        let error = for_podman(dir.path(), &to, &options).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    let (process, mut manifest) = stored();
    manifest.process = Some(manifest::Process::default());
    let text = manifest.render().expect("small");
    fs::write(process.path().join(manifest::NAME), text).expect("write");
    let to = out.path().join("process");
    let error = for_podman(process.path(), &to, &podman_options()).expect_err("a process");
    assert!(error.to_string().contains("of a process"), "{error}");
}

#[test]
fn an_engine_s_files_and_images_of_ours_are_kept() {
    let dir = ours();
    let read = |name: &str| fs::read(dir.path().join(name)).expect("read");
    let names = [
        "cedana-manifest.json",
        "core-1.img",
        "inventory.img",
        "pages-1.img.zst",
        "pages-2.img",
        "pages-2.img.table",
    ];
    let images: Vec<_> = names
        .map(|name| (format!("checkpoint/{name}"), read(name)))
        .into();
    let mut files: Vec<(&str, &[u8])> = images
        .iter()
        .map(|(path, bytes)| (&**path, &**bytes))
        .collect();
    files.extend([
        ("checkpoint/dump.log", &b"a log"[..]),
        ("checkpoint/unlisted", b"x"),
        ("config.dump", br#"{"id": "abc", "runtime": "crun", "rootfsImageName": "busybox", "rootfsImageID": "1"}"#),
        ("spec.dump", br#"{"ociVersion": "1.0"}"#),
        ("volumes/data.tar", b"a volume"),
    ]);
    let out = tempfile::tempdir().expect("tempdir");
    let from = out.path().join("from.tar");
    fs::write(&from, tar_of(&files)).expect("write");
    let to = out.path().join("to.tar");
    let report = imported(&from, &to).expect("imported");
    // What the manifest has stays; what it doesn't have comes from the engine.
    assert_eq!(report.manifest.container.id, "web");
    assert_eq!(report.manifest.container.image.as_deref(), Some("busybox"));
    assert_eq!(report.manifest.versions.runtime, "crun");
    let raw = raw(&to);
    assert!(raw["pages-1.img"] == memory());
    assert_eq!(raw["engine.volumes%2Fdata.tar"], b"a volume");
    assert!(!raw.contains_key("unlisted"));
    let again = out.path().join("again.tar");
    for_podman(
        &to,
        &again,
        &PodmanOptions {
            runtime: Some("runc".to_owned()),
            ..podman_options()
        },
    )
    .expect("exported");
    let again = tar_files(&again);
    assert_eq!(again["volumes/data.tar"], b"a volume");
    assert_eq!(again["spec.dump"], br#"{"ociVersion": "1.0"}"#);
    let config: Value = serde_json::from_slice(&again["config.dump"]).expect("JSON");
    assert_eq!(
        (&config["id"], &config["runtime"]),
        (&json!("abc"), &json!("runc"))
    );
    // A changed image is found by its digest.
    files[1].1 = b"another";
    fs::write(&from, tar_of(&files)).expect("write");
    let error = imported(&from, &out.path().join("changed.tar")).expect_err("changed");
    assert!(error.to_string().contains("core-1.img"), "{error}");
    // Memory before the manifest would have been stored as of a stock runtime.
    files.rotate_left(1);
    fs::write(&from, tar_of(&files)).expect("write");
    let error = imported(&from, &out.path().join("order.tar")).expect_err("order");
    assert!(
        error.to_string().contains("order of their names"),
        "{error}"
    );
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let dir = ours();
    let inventory = fs::read(dir.path().join("inventory.img")).expect("read");
    let out = tempfile::tempdir().expect("tempdir");
    let ours = out.path().join("ours.tar");
    exported(dir.path(), &ours).expect("exported");
    let compressed = zstd::encode_all(&fs::read(&ours).expect("read")[..], 1).expect("zstd");
    let nested = tar_of(&[
        ("checkpoint/inventory.img", &inventory),
        ("checkpoint/a/b", b""),
    ]);
    let twice = tar_of(&[
        ("checkpoint/inventory.img", &inventory),
        ("checkpoint/inventory.img", &inventory),
    ]);
    let mut truncated = tar_of(&[("checkpoint/inventory.img", &inventory)]);
    truncated.truncate(truncated.len() - 512);
    let truncated = zstd::encode_all(&truncated[..], 1).expect("zstd");
    for (bytes, why) in [
        (b"hello, world".to_vec(), "not a tar"),
        (Vec::new(), "not a tar"),
        (tar_of(&[("config.dump", b"{}")]), "inventory.img"),
        (tar_of(&[("checkpoint/core-1.img", b"")]), "inventory.img"),
        (compressed, "zstd -d"),
        (nested, "a directory in it"),
        (twice, "twice"),
        (truncated, "truncated"),
        (tar_of(&[("config.dump", b"no JSON")]), "no JSON"),
    ] {
        let from = out.path().join("from");
        fs::write(&from, bytes).expect("write");
        let error = imported(&from, &out.path().join(why.replace(' ', "_"))).map(|_| ());
        let _ = fs::remove_file(out.path().join(why.replace(' ', "_")));
        let error = error.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_caller_that_goes_away_ends_it() {
    let dir = ours();
    let out = tempfile::tempdir().expect("tempdir");
    let gone = || true;
    let context = Context {
        store: Path::new("/nowhere"),
        cancelled: &gone,
        ..context()
    };
    let to = out.path().join("1.tar");
    let file = File::create_new(&to).expect("create");
    let ended = archive(&source(dir.path()), &file, &to, &context);
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    let ended = podman(&source(dir.path()), &file, &to, &podman_options(), &context);
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
}

#[test]
fn a_signature_stays_valid() {
    let (dir, manifest) = stored();
    let key_path = dir.path().join("key");
    fs::write(&key_path, "0a".repeat(32)).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&key_path, mode).expect("chmod");
    let key = Key::read(&key_path).expect("a key").expect("a key");
    let mut signed = manifest.clone();
    signed.sign(&key).expect("signed");
    fs::write(
        dir.path().join(manifest::NAME),
        signed.render().expect("small"),
    )
    .expect("write");
    let to = dir.path().join("1.tar");
    let report = exported(dir.path(), &to).expect("exported");
    assert!(report.manifest.is_signed_by(&key));
    assert!(source(&to).manifest.expect("a manifest").is_signed_by(&key));
}
