use std::fs;

use proptest::prelude::*;
use serde_json::Value;

use super::file::Fault;
use super::*;
use crate::format::pages::Summary;
use crate::opened::OpenedDir;

fn pages() -> Entry {
    Entry::pages(
        "pages-1.img.zst",
        Kind::Pages,
        &Summary {
            raw_bytes: 9000,
            stored_bytes: 500,
            frame_size: 4096,
            frames: 3,
            table_digest: blake3::hash(b"trailer"),
        },
    )
}

pub(super) fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        created: 1_700_000_000,
        files: vec![
            Entry::whole("core-1.img", Kind::Image, 3, blake3::hash(b"abc")),
            pages(),
        ],
        parent: None,
        store: None,
        machine: Machine::default(),
        versions: Versions::default(),
        container: Container {
            id: "c".to_owned(),
            image: None,
            spec: Some(serde_json::json!({"linux": {"resources": {"x": u64::MAX}}})),
        },
        process: None,
        options: [("level".to_owned(), Value::from(1))].into(),
        cost: Cost::default(),
        signature: None,
    }
}

fn parse(manifest: &Manifest) -> Result<Manifest, Fault> {
    Manifest::parse(&manifest.render().expect("render"))
}

#[test]
fn a_written_manifest_is_read_unchanged() {
    let written = manifest();
    assert_eq!(parse(&written).expect("parse"), written);
    assert_eq!(written.file("pages-1.img.zst"), Some(&pages()));
    assert_eq!(pages().raw_name(), "pages-1.img");
}

#[test]
fn missing_newer_and_truncated_manifests() {
    let dir = tempfile::tempdir().expect("tempdir");
    let opened = OpenedDir::open(dir.path()).expect("open");
    assert_eq!(Manifest::read(&opened).expect("none"), None);
    let file = dir.path().join(NAME);
    fs::write(&file, r#"{"format": 7, "files": "otherwise"}"#).expect("write");
    let error = Manifest::read(&opened).expect_err("newer").to_string();
    assert!(
        error.contains("format 7") && error.contains("update"),
        "{error}"
    );
    fs::write(&file, "{\"format\": 1, \"files\"").expect("write");
    let error = Manifest::read(&opened).expect_err("cut").to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn an_archive_of_connections_has_its_name_and_its_format() {
    let archive = |name| Entry::whole(name, Kind::Streams, 1024, blake3::hash(b"tar"));
    let mut manifest = manifest();
    assert_eq!(Manifest::format_of(&manifest.files), FORMAT);
    manifest.files.push(archive("tcp-streams.tar"));
    let refused = |manifest: &Manifest| match parse(manifest) {
        Err(Fault::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    // A version that reads format 1 alone must not be given an archive.
    assert!(refused(&manifest).contains("format 1"));
    manifest.format = Manifest::format_of(&manifest.files);
    assert_eq!(manifest.format, WITH_STREAMS);
    assert_eq!(parse(&manifest).expect("parse"), manifest);
    let last = manifest.files.len() - 1;
    manifest.files[last] = archive("tcp-streams-2.tar");
    assert!(refused(&manifest).contains("tcp-streams-2.tar"));
    manifest.files[last] = archive("tcp-streams.tar");
    manifest.files[last].kind = Kind::Other;
    assert!(refused(&manifest).contains("kind"));
    manifest.files[last] = archive("tcp-streams.tar");
    manifest.files.push(archive("tcp-streams.tar"));
    assert!(refused(&manifest).contains("twice"));
}

fn with_chunks() -> Manifest {
    let mut manifest = manifest();
    manifest.files[1] = Entry::chunks("pages-1.img.chunks", b"list", 8192);
    manifest.format = Manifest::format_of(&manifest.files);
    manifest.store = Some(StoreReference {
        id: "0123456789abcdef".repeat(2),
    });
    manifest
}

#[test]
fn memory_in_the_store_has_a_list_an_id_and_the_newest_format() {
    let written = with_chunks();
    assert_eq!(written.format, WITH_STORE);
    assert_eq!(parse(&written).expect("parse"), written);
    let list = &written.files[1];
    assert_eq!(list.raw_name(), "pages-1.img");
    assert_eq!(list.hash(), Some(blake3::hash(b"list")));
    let text = serde_json::to_value(list).expect("value");
    assert_eq!(text["kind"], "chunks");
    assert_eq!(text["pages"], serde_json::json!({"raw_size": 8192}));
    let refused = |change: fn(&mut Manifest), why: &str| {
        let mut manifest = with_chunks();
        change(&mut manifest);
        match parse(&manifest) {
            Err(Fault::Invalid(found)) => assert!(found.contains(why), "{found}"),
            other => panic!("{why}: {other:?}"),
        }
    };
    fn memory(m: &mut Manifest) -> &mut Pages {
        m.files[1].pages.as_mut().expect("memory")
    }
    refused(|m| m.format = WITH_STREAMS, "format 2");
    refused(|m| m.store = None, "without a store");
    refused(|m| m.files[1] = pages(), "a store without");
    refused(|m| m.store.as_mut().expect("store").id.push('0'), "ID");
    refused(|m| m.files[1].name = "pages-1.img".to_owned(), "name");
    refused(|m| m.files[1].name = "pages-1.img.zst".to_owned(), "name");
    refused(|m| m.files[1].size = u64::MAX, "larger");
    refused(|m| m.files[1].pages = None, "without");
    refused(|m| memory(m).raw_size = u64::MAX, "more memory");
    refused(|m| memory(m).frames = memory_frames(), "frames");
}

fn memory_frames() -> Option<Frames> {
    pages().pages.and_then(|pages| pages.frames)
}

#[test]
fn a_link_or_a_pipe_is_not_read() {
    let dir = tempfile::tempdir().expect("tempdir");
    let opened = OpenedDir::open(dir.path()).expect("open");
    let path = dir.path().join(NAME);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let error = Manifest::read(&opened).expect_err("a pipe").to_string();
    assert!(error.contains("not a regular file"), "{error}");
    fs::remove_file(&path).expect("remove");
    let text = manifest().render().expect("render");
    fs::write(dir.path().join("another"), &text).expect("write");
    std::os::unix::fs::symlink("another", &path).expect("symlink");
    Manifest::read(&opened).expect_err("a link");
    fs::remove_file(&path).expect("remove");
    fs::write(&path, &text).expect("write");
    let (found, name) = Manifest::identified(&opened).expect("read").expect("one");
    assert_eq!(found, manifest());
    assert_eq!(name, blake3::hash(&text).to_hex().to_string());
}

#[test]
fn values_are_limited_by_the_length_of_the_text() {
    let mut long = manifest();
    let strings = Value::from(",[{\\\"".repeat(1 << 20));
    long.options = [("in a string".to_owned(), strings)].into();
    assert_eq!(parse(&long).expect("parse"), long);
    let text = String::from_utf8(manifest().render().expect("render")).expect("text");
    let many = format!("[{}0]", "0,".repeat(1 << 20));
    let error = Manifest::parse(
        text.replacen("\"level\": 1", &format!("\"level\": {many}"), 1)
            .as_bytes(),
    );
    assert!(matches!(error, Err(Fault::Invalid(why)) if why.contains("more values")));
    // As many entries as fit, without a space.
    let mut wide = manifest();
    wide.files = (0..100_000)
        .map(|n| Entry::whole(&format!("{n}"), Kind::Other, 1, blake3::hash(b"")))
        .collect();
    let compact = serde_json::to_vec(&wide).expect("render");
    assert_eq!(Manifest::parse(&compact).expect("parse"), wide);
}

#[test]
fn the_memory_of_all_files_is_limited() {
    let mut huge = manifest();
    huge.files = (0..3)
        .map(|n| {
            let mut entry = pages();
            entry.name = format!("pages-{n}.img.zst");
            entry.pages = Some(Pages {
                raw_size: 2 << 40,
                frames: Some(Frames {
                    frame_size: 256 << 10,
                    count: 8 << 20,
                }),
            });
            entry
        })
        .collect();
    let error = parse(&huge);
    assert!(matches!(error, Err(Fault::Invalid(why)) if why.contains("more memory")));
    huge.files.pop();
    parse(&huge).expect("the limit");
}

#[test]
fn unknown_keys_are_ignored() {
    let mut value = serde_json::to_value(manifest()).expect("value");
    value["cost"]["energy"] = Value::from(3);
    value["later"] = Value::from(true);
    let text = serde_json::to_vec(&value).expect("text");
    assert_eq!(Manifest::parse(&text).expect("parse"), manifest());
}

#[test]
fn invalid_entries_are_refused() {
    let wrong = |change: fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        match parse(&manifest) {
            Err(Fault::Invalid(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    fn memory(m: &mut Manifest) -> &mut Pages {
        m.files[1].pages.as_mut().expect("pages")
    }
    fn frames(m: &mut Manifest) -> &mut Frames {
        memory(m).frames.as_mut().expect("frames")
    }
    wrong(|m| m.format = 0);
    wrong(|m| m.files[0].name = "../core-1.img".to_owned());
    wrong(|m| m.files[0].name = "..".to_owned());
    wrong(|m| m.files[0].name = NAME.to_owned());
    wrong(|m| m.files[0].name = String::new());
    wrong(|m| m.files[0].name = "x".repeat(256));
    wrong(|m| m.files[0].name = "pages-1.img.zst".to_owned());
    wrong(|m| m.files[0].name = "pages-1.img".to_owned());
    wrong(|m| m.files[0].digest = "abc".to_owned());
    wrong(|m| m.files[0].pages = m.files[1].pages);
    wrong(|m| m.files[1].name = "pages-x.img.zst".to_owned());
    wrong(|m| m.files[1].name = "pages-1.img".to_owned());
    wrong(|m| m.files[1].pages = None);
    wrong(|m| frames(m).frame_size = 0);
    wrong(|m| frames(m).frame_size = 5000);
    wrong(|m| frames(m).frame_size = 32 << 20);
    wrong(|m| memory(m).raw_size = u64::MAX);
    wrong(|m| memory(m).frames = None);
    wrong(|m| frames(m).count = 4);
}

proptest! {
    #[test]
    fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(&text);
    }

    #[test]
    fn no_damage_panics(at in 0usize..1500, byte in any::<u8>()) {
        let mut text = manifest().render().expect("render");
        let at = at % text.len();
        text[at] = byte;
        let _ = Manifest::parse(&text);
    }

    #[test]
    fn only_pages_n_img_is_a_page_file(name in "(pages-)?[0-9a]{0,3}(\\.img)?") {
        let expected = name.len() > 10 && name.starts_with("pages-") && name.ends_with(".img")
            && name[6..name.len() - 4].chars().all(|c| c.is_ascii_digit());
        prop_assert_eq!(is_pages(&name), expected);
    }
}
