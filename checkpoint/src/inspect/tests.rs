//! Inspection of the images in `data/`. CRIU 4.2.1 wrote them for a container with two
//! Python processes, two processes that share memory in every way, a zombie, and most
//! kinds of sockets. The page files are omitted.

use std::fs;
use std::path::{Path, PathBuf};

use cedana_store::list::List;
use proptest::prelude::*;

use super::*;
use crate::format::contents::tests::by_reference;
use crate::format::manifest::{Entry, Kind, NAME};
use crate::format::{contents, streams};
use crate::images::{SocketKind, TcpState, network, sockets, verify};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inspect/data")
}

fn copy_of_data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    for entry in fs::read_dir(data()).expect("data") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copy");
    }
    dir
}

fn found() -> Inspection {
    inspect(&data()).expect("inspect")
}

#[test]
fn processes_and_threads() {
    let found = found();
    assert_eq!(found.machine, "x86_64");
    let tree: Vec<_> = found
        .processes
        .iter()
        .map(|p| (p.pid, p.ppid, p.comm.as_str(), p.state, p.threads.len()))
        .collect();
    use ProcessState::{Running, Zombie};
    assert_eq!(
        tree,
        [
            (1, 0, "python3", Running, 4),
            (10, 1, "python3", Running, 1),
            (11, 1, "shm", Running, 3),
            (15, 11, "shm", Running, 1),
            (12, 1, "python3", Zombie, 1),
        ]
    );
    let init = &found.processes[0];
    assert_eq!(init.uid, Some(0));
    assert_eq!(init.executable.as_deref(), Some("/usr/bin/python3.13"));
    assert_eq!(init.directory.as_deref(), Some("/"));
    assert!(found.processes[4].memory.is_none());
    let names: Vec<_> = found.processes[2]
        .threads
        .iter()
        .filter_map(|thread| thread.comm.as_deref())
        .collect();
    assert_eq!(names, ["worker", "wor\u{1b}[31mker"]);
}

#[test]
fn memory_adds_up() {
    let found = found();
    for memory in found.processes.iter().filter_map(|p| p.memory.as_ref()) {
        let mut sum = 0;
        for part in [memory.anonymous, memory.file, memory.shared, memory.other] {
            sum += part.mapped_bytes;
        }
        assert_eq!(sum, memory.total.mapped_bytes);
        assert!(memory.total.image_bytes > 1 << 20);
    }
    let memory = found.processes[2].memory.as_ref().expect("memory");
    let filled = &memory.largest[0];
    assert_eq!(filled.kind, MappingKind::Anonymous);
    assert_eq!(filled.share.mapped_bytes, 64 << 20);
    assert_eq!(filled.share.image_bytes, 3 << 20);
    assert_eq!(filled.access, "rw-");
    let largest = |kind| memory.largest.iter().find(|mapping| mapping.kind == kind);
    let shared = largest(MappingKind::SharedAnonymous).expect("shared anonymous");
    assert_eq!(shared.share.mapped_bytes, 2 << 20);
    assert_eq!(shared.share.image_bytes, 1 << 20);
    let file = largest(MappingKind::File).expect("file");
    assert_eq!(file.path.as_deref(), Some("/zoo/shm"));
    assert!(largest(MappingKind::SysvShm).is_some());
    assert!(largest(MappingKind::Stack).is_some());
    assert_eq!(found.shared_memory.len(), 3);
    for segment in &found.shared_memory {
        assert_eq!(segment.pids, [11, 15]);
    }
    let named = found.shared_memory.iter().find_map(|s| s.name.as_deref());
    assert_eq!(named, Some("memfd:scratchpad"));
}

#[test]
fn descriptors() {
    let found = found();
    let file = |process: usize, fd| {
        let files = &found.processes[process].files;
        files.iter().find(|file| file.fd == fd).expect("descriptor")
    };
    assert_eq!(file(0, 0).kind, OpenFileKind::Pipe);
    assert_eq!(file(0, 0).access, Some("r"));
    let deleted = file(0, 23);
    assert_eq!(deleted.name.as_deref(), Some("/tmp/gone"));
    assert_eq!(deleted.offset, Some(3));
    assert!(deleted.deleted && deleted.close_on_exec);
    assert!(!file(0, 22).deleted);
    assert_eq!(file(0, 20).name.as_deref(), Some("counter 3"));
    assert_eq!(file(2, 3).name.as_deref(), Some("memfd:scratchpad"));
    assert_eq!(file(2, 4).name.as_deref(), Some("/etc/passwd"));
}

/// The checkpoint in `data/` with a manifest, with its connections in an archive if
/// `packed`.
fn described(packed: bool) -> tempfile::TempDir {
    let dir = copy_of_data();
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name().display().to_string())
        .collect();
    names.sort_unstable();
    let mut archive = streams::Writer::new(Vec::new());
    let mut files = Vec::new();
    for name in &names {
        let path = dir.path().join(name);
        let bytes = fs::read(&path).expect("read");
        let size = bytes.len() as u64;
        if packed && streams::is_stream(name) {
            archive.append(name, size, &*bytes).expect("append");
            fs::remove_file(&path).expect("remove");
        } else {
            files.push(Entry::whole(name, Kind::Image, size, blake3::hash(&bytes)));
        }
    }
    if packed {
        let (bytes, size, digest) = archive.finish().expect("finish");
        fs::write(dir.path().join(streams::NAME), bytes).expect("write");
        files.push(Entry::whole(streams::NAME, Kind::Streams, size, digest));
    }
    let manifest = Manifest::of(files);
    let text = manifest.render().expect("render");
    fs::write(dir.path().join(NAME), text).expect("write");
    dir
}

#[test]
fn connections_in_an_archive_are_found() {
    let (plain, packed) = (described(false), described(true));
    let of = |dir: &tempfile::TempDir| inspect(dir.path()).expect("inspect");
    let (plain, found) = (of(&plain), of(&packed));
    assert_eq!(found.sockets, plain.sockets);
    let unread = |found: &Inspection| serde_json::to_string(&found.sockets).expect("JSON");
    assert!(unread(&found).contains("\"receive_queue\":12"));
    assert_eq!(found.sizes.raw_bytes, plain.sizes.raw_bytes);
    assert_eq!(found.sizes.files, plain.sizes.files - 3);
    // A restore reads the same.
    let dir = OpenedDir::open(packed.path()).expect("open");
    let contents = contents::open(
        &dir,
        &found.manifest.expect("one"),
        Path::new("/none/store"),
    )
    .expect("verified");
    assert_eq!(sockets(&contents).expect("sockets"), found.sockets);
    // Damage is named.
    let file = packed.path().join(streams::NAME);
    let bytes = fs::read(&file).expect("read");
    fs::write(&file, &bytes[..bytes.len() - 100]).expect("write");
    let error = inspect(packed.path()).expect_err("truncated").to_string();
    assert!(error.contains(streams::NAME), "{error}");
}

#[test]
fn sockets_of_both_families() {
    let all = sockets(&data()).expect("sockets");
    assert_eq!(all, found().sockets);
    let inet: Vec<_> = all
        .iter()
        .filter_map(|socket| match &socket.kind {
            SocketKind::Inet(inet) => {
                assert_eq!(socket.netns, Some(10));
                let peer = inet.destination.map(|peer| peer.to_string());
                Some((inet.state, inet.source.to_string(), peer))
            }
            _ => None,
        })
        .collect();
    let own = |address: &str| inet.iter().find(|(_, source, _)| source == address);
    let listening = Some(TcpState::Listen);
    assert_eq!(
        own("[::]:8081"),
        Some(&(listening, "[::]:8081".to_owned(), None))
    );
    assert_eq!(own("127.0.0.1:8080").map(|found| found.0), Some(listening));
    let connected = own("[::1]:8081").expect("connection");
    assert_eq!(connected.0, Some(TcpState::Established));
    assert!(
        connected
            .2
            .as_deref()
            .is_some_and(|peer| peer.starts_with("[::1]:"))
    );
    let unread = all.iter().find_map(|socket| match &socket.kind {
        SocketKind::Inet(inet) => inet.receive_queue.filter(|bytes| *bytes > 0),
        _ => None,
    });
    assert_eq!(unread, Some(12));
    let names: Vec<_> = all
        .iter()
        .filter_map(|socket| match &socket.kind {
            SocketKind::Unix(unix) if unix.listening => unix.name.as_deref(),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["/tmp/sock", "@abstract"]);
}

#[test]
fn mounts_and_namespaces() {
    let found = found();
    let root = found.mounts.iter().find(|m| m.mountpoint == "/");
    assert_eq!(root.map(|root| root.fstype.as_str()), Some("overlay"));
    let bound = found.mounts.iter().find(|m| m.mountpoint == "/zoo");
    assert_eq!(bound.and_then(|m| m.external.as_deref()), Some("/zoo"));
    let mqueue = found.mounts.iter().find(|m| m.mountpoint == "/dev/mqueue");
    assert_eq!(mqueue.map(|m| m.fstype.as_str()), Some("mqueue"));
    assert_eq!(found.network, Network::External);
    assert_eq!(network(&data()), Network::External);
    let of = |kind| found.namespaces.iter().find(|n| n.kind == kind).cloned();
    let net = of(NamespaceKind::Net).expect("net");
    assert_eq!(net.external.as_deref(), Some("extRootNetNS"));
    assert!(!net.host);
    assert!(of(NamespaceKind::User).expect("user").host);
}

#[test]
fn costs_and_sizes() {
    let found = found();
    assert_eq!(found.dump.expect("stats").pages_written, 8463);
    assert_eq!(found.sizes.memory_raw_bytes, 0);
    let dir = copy_of_data();
    // The size of a compressed pages file is not that of the memory.
    fs::write(dir.path().join("pages-1.img.zst"), vec![0; 1000]).expect("write");
    let sizes = inspect(dir.path()).expect("inspect").sizes;
    let init = found.processes[0].memory.as_ref().expect("memory");
    assert_eq!(sizes.memory_raw_bytes, init.total.image_bytes);
    assert_eq!(sizes.memory_stored_bytes, 1000);
}

#[test]
fn memory_in_the_store_is_named_without_the_store() {
    let (dir, manifest, stored) = by_reference();
    fs::remove_dir_all(stored.store()).expect("remove");
    let found = inspect(dir.path()).expect("inspect");
    let store = found.store.expect("the store");
    assert_eq!(store.id, stored.id.as_str());
    let list = List::parse(&stored.list).expect("a list");
    assert_eq!(store.chunks, list.chunks.len() as u64);
    assert_eq!(store.stored_bytes, list.stored_bytes());
    assert!(store.stored_bytes > 0 && store.stored_bytes < stored.memory.len() as u64);
    // The size of the files is that of the list, not that of its chunks.
    let plain = manifest.file("pages-2.img").expect("listed").size;
    let in_files = stored.list.len() as u64 + plain;
    assert_eq!(found.sizes.memory_stored_bytes, in_files);
    fs::write(dir.path().join("pages-1.img.chunks"), "another").expect("write");
    let error = inspect(dir.path()).expect_err("damage").to_string();
    assert!(error.contains("pages-1.img.chunks"), "{error}");
}

#[test]
fn the_json_keeps_its_keys() {
    let json = serde_json::to_value(found()).expect("json");
    for (at, value) in [
        ("/processes/0/memory/largest/0/kind", "anonymous"),
        ("/processes/0/files/0/kind", "pipe"),
        ("/sockets/0/family", "inet"),
        ("/sockets/0/protocol", "tcp"),
        ("/sockets/0/state", "listen"),
        ("/sockets/0/source", "127.0.0.1:8080"),
        ("/sockets/8/family", "unix"),
        ("/sockets/8/type", "stream"),
        ("/network", "external"),
        ("/namespaces/0/kind", "pid"),
    ] {
        assert_eq!(
            json.pointer(at).and_then(|v| v.as_str()),
            Some(value),
            "{at}"
        );
    }
}

#[test]
fn damaged_checkpoints_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let error = inspect(dir.path()).expect_err("empty");
    assert!(error.to_string().contains("inventory.img"), "{error}");
    assert!(inspect(&dir.path().join("gone")).is_err());
    let dir = copy_of_data();
    let core = dir.path().join("core-1.img");
    fs::write(&core, &fs::read(&core).expect("read")[..100]).expect("write");
    let error = inspect(dir.path()).expect_err("cut");
    assert!(error.to_string().contains("core-1.img"), "{error}");
    // A pipe in place of an image must not block.
    fs::remove_file(&core).expect("remove");
    nix::unistd::mkfifo(&core, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let error = inspect(dir.path()).expect_err("pipe");
    assert!(error.to_string().contains("core-1.img"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_panics(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let dir = copy_of_data();
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .expect("dir")
            .map(|entry| entry.expect("entry").path())
            .collect();
        names.sort();
        let path = which.get(&names);
        let mut content = fs::read(path).expect("read");
        let start = at.index(content.len());
        for (to, from) in content[start..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        fs::write(path, content).expect("write");
        let _ = inspect(dir.path());
        let _ = sockets(dir.path());
        let _ = verify(dir.path());
    }
}

#[test]
fn descriptions_take_limited_room() {
    let data = data();
    let dir = Dir(data.as_path());
    let listing = dir.files().expect("list");
    let read = |room| {
        let files = Files::read(&dir, room).expect("files");
        let mut pages = Pages::read(&dir, &listing).expect("pages");
        let found = processes::read(&dir, &files, &mut pages);
        (found.map(|found| found.len()), files.is_exhausted())
    };
    let (found, exhausted) = read(1000);
    assert!(matches!(found, Err(images::Error::TooMany { .. })));
    assert!(exhausted);
    let (found, exhausted) = read(1 << 20);
    assert!(found.expect("room") > 4 && !exhausted);
}
