use std::fs;
use std::path::Path;

use cedana_checkpoint::format::manifest::{
    Container, Cost, Entry, Kind, Machine, Manifest, StoreReference, Versions, WITH_STORE,
};
use cedana_store::list::List;
use serde_json::json;

use super::*;

/// Writes a checkpoint's manifest, with memory in the store if it has an ID.
pub(in crate::memory_store) fn write_manifest(path: &Path, id: Option<&CheckpointId>) {
    let list = List {
        page_size: 4096,
        packs: Vec::new(),
        chunks: Vec::new(),
        runs: Vec::new(),
    };
    fs::create_dir_all(path).expect("a directory");
    let mut files = vec![Entry::whole(
        "core-1.img",
        Kind::Image,
        3,
        blake3::hash(b"abc"),
    )];
    if id.is_some() {
        files.push(Entry::chunks("pages-1.img.chunks", &list.render(), 0));
        fs::write(path.join("pages-1.img.chunks"), list.render()).expect("written");
    }
    let manifest = Manifest {
        format: WITH_STORE,
        created: 1_700_000_000,
        files,
        parent: None,
        store: id.map(|id| StoreReference { id: id.to_string() }),
        machine: Machine::default(),
        versions: Versions::default(),
        container: Container::default(),
        process: None,
        options: Default::default(),
        cost: Cost::default(),
        signature: None,
    };
    let text = manifest.render().expect("rendered");
    fs::write(path.join("cedana-manifest.json"), text).expect("written");
}

/// A survey that found this behind a socket.
fn survey(contents: Result<Vec<CheckpointId>, String>) -> Survey {
    let contents = contents.map(|ids| ids.into_iter().collect());
    Survey {
        roots: HashMap::new(),
        contents: [("/sock".into(), contents)].into(),
        blobs: Blobs::new(),
        now: Moment::now(),
    }
}

fn row(id: &CheckpointId, subject: serde_json::Value) -> CheckpointRow {
    CheckpointRow {
        number: 1,
        id: Some(id.clone()),
        name: None,
        uid: 0,
        job: None,
        path: "/nowhere/checkpoint".into(),
        created: Moment::now(),
        seen: None,
        remote: false,
        raw_bytes: 0,
        bytes: 0,
        new_bytes: 0,
        subject,
        is_kept: false,
    }
}

fn id() -> CheckpointId {
    CheckpointId::random().expect("an ID")
}

fn packed(namespace: &str) -> serde_json::Value {
    json!({"engine": "containerd", "namespace": namespace, "container": "c",
           "address": "/sock", "packed": true})
}

#[test]
fn a_checkpoint_in_containerds_content_is_referred_to() {
    let id = id();
    let mut row = row(&id, packed("default"));
    assert_eq!(
        survey(Ok(vec![id.clone()])).state(&row),
        Reference::Referenced
    );
    let state = survey(Ok(vec![])).state(&row);
    assert!(
        matches!(state, Reference::Unknown(_)),
        "its client may still pack it"
    );
    row.seen = Some(Moment::now());
    assert_eq!(survey(Ok(vec![])).state(&row), Reference::Gone);
    let state = survey(Err("it does not answer".to_owned())).state(&row);
    assert_eq!(state, Reference::Unknown("it does not answer".to_owned()));
}

#[test]
fn a_packed_checkpoint_that_was_never_seen_is_gone_after_a_day() {
    let mut row = row(&id(), packed("default"));
    row.created.seconds -= 25 * 3600;
    row.created.since_boot -= 25 * 3600;
    assert_eq!(survey(Ok(vec![])).state(&row), Reference::Gone);
    row.subject = packed("k8s.io");
    let state = survey(Ok(vec![])).state(&row);
    assert!(matches!(state, Reference::Unknown(_)), "{state:?}");
}

/// A survey of a data root of Docker's, and the row of a checkpoint of container `c`.
fn docker(root: &Path, contents: Result<Vec<CheckpointId>, String>) -> (Survey, CheckpointRow) {
    let mut survey = survey(contents);
    survey.roots.insert(root.to_owned(), Root::scan(root));
    // Whether the node has a containerd decides which sockets are asked.
    for address in super::super::subject::OF_DOCKER {
        survey.contents.insert(address.into(), Ok(HashSet::new()));
    }
    let socket = root.join("containerd.sock");
    let found = survey
        .contents
        .remove(Path::new("/sock"))
        .expect("it was set");
    survey.contents.insert(socket.clone(), found);
    let subject = json!({"engine": "docker", "root": root, "container": "c",
                         "namespace": "moby", "address": socket});
    (survey, row(&id(), subject))
}

#[test]
fn a_checkpoint_in_dockers_directory_is_referred_to() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("containerd.sock"), "").expect("written");
    let id = id();
    let checkpoint = root.path().join("containers/other/checkpoints/monday");
    write_manifest(&checkpoint, Some(&id));
    write_manifest(&root.path().join("containers/c/checkpoints/stock"), None);
    let (mut survey, mut row) = docker(root.path(), Ok(vec![]));
    row.id = Some(id.clone());
    assert_eq!(survey.state(&row), Reference::Referenced);
    fs::remove_dir_all(&checkpoint).expect("removed");
    let (mut survey, _) = docker(root.path(), Ok(vec![]));
    // It may be in a directory that a person named.
    assert!(matches!(survey.state(&row), Reference::Unknown(_)));
    row.seen = Some(Moment::now());
    assert_eq!(survey.state(&row), Reference::Gone);
    let (mut packing, _) = docker(root.path(), Ok(vec![id]));
    assert_eq!(packing.state(&row), Reference::Referenced);
    row.seen = None;
    fs::remove_dir_all(root.path().join("containers/c")).expect("removed");
    assert_eq!(survey.state(&row), Reference::Gone);
}

#[test]
fn a_data_root_that_cannot_be_read_keeps_its_checkpoints() {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("containerd.sock"), "").expect("written");
    let (mut survey, mut row) = docker(root.path(), Ok(vec![]));
    row.seen = Some(Moment::now());
    assert!(
        matches!(survey.state(&row), Reference::Unknown(_)),
        "there is none"
    );
    fs::create_dir_all(root.path().join("containers/x/checkpoints/m")).expect("made");
    fs::write(
        root.path()
            .join("containers/x/checkpoints/m/cedana-manifest.json"),
        "{",
    )
    .expect("written");
    let (mut survey, _) = docker(root.path(), Ok(vec![]));
    assert!(
        matches!(survey.state(&row), Reference::Unknown(_)),
        "a damaged manifest"
    );
    fs::remove_dir_all(root.path().join("containers/x")).expect("removed");
    let (mut survey, _) = docker(root.path(), Err("it does not answer".to_owned()));
    assert!(
        matches!(survey.state(&row), Reference::Unknown(_)),
        "containerd"
    );
    let (mut survey, _) = docker(root.path(), Ok(vec![]));
    assert_eq!(survey.state(&row), Reference::Gone);
}

#[test]
fn rows_of_newer_versions_and_without_memory_in_the_store_are_kept() {
    let mut row = row(&id(), json!({"engine": "podman"}));
    let mut survey = survey(Ok(vec![]));
    assert!(matches!(survey.state(&row), Reference::Unknown(_)));
    row.subject = json!({"engine": "recovered"});
    assert!(matches!(survey.state(&row), Reference::Unknown(_)));
    row.id = None;
    assert!(matches!(survey.state(&row), Reference::Unknown(_)));
}

#[test]
fn checkpoints_are_found_for_a_catalogue_that_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (of_docker, other, alone) = (id(), id(), id());
    write_manifest(
        &dir.path().join("docker/containers/c/checkpoints/monday"),
        Some(&of_docker),
    );
    write_manifest(&dir.path().join("backups/one"), Some(&other));
    write_manifest(&dir.path().join("backups/inline"), None);
    write_manifest(&dir.path().join("alone"), Some(&alone));
    fs::write(dir.path().join("backups/notes.txt"), "no archive").expect("written");
    let places = ["docker", "backups", "alone", "missing"].map(|name| dir.path().join(name));
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |text| told.borrow_mut().push(text);
    let found = super::super::find_checkpoints(&places, &tell);
    let ids: Vec<_> = found
        .iter()
        .map(|found| found.checkpoint.id.clone())
        .collect();
    assert_eq!(ids, [of_docker, other, alone]);
    assert_eq!(found[0].checkpoint.subject["container"], "c");
    assert_eq!(found[1].lists.len(), 1);
    let told = told.into_inner();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("missing"), "{told:?}");
}
