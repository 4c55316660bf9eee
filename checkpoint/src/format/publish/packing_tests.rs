use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::steps::kill::STEPS;
use super::tests::{NEW_NAMES, OLD, contents, holds, is_new, manifest, older, recovered, write};
use super::{Durability, Staging};
use crate::format::manifest::{Entry, Kind};
use crate::format::streams::{self, MAX_FILES};

/// Writes the images of this many connections, and returns their names.
fn connections(dir: &Path, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count)
        .map(|inode| format!("tcp-stream-{inode:x}.img"))
        .collect();
    for name in &names {
        fs::write(dir.join(name), name).expect("write");
    }
    names
}

#[test]
fn only_many_connections_are_packed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &["core-1.img"], "abc");
    let names = connections(staging.place(), MAX_FILES);
    assert_eq!(staging.pack_streams().expect("few"), None);
    assert_eq!(contents(staging.place()).len(), names.len() + 1);

    let mut names = connections(staging.place(), MAX_FILES + 1);
    names.sort_unstable();
    let entry = staging.pack_streams().expect("many").expect("an archive");
    let left: Vec<String> = contents(staging.place()).into_keys().collect();
    assert_eq!(left, ["core-1.img", streams::NAME]);
    let file = staging.place().join(streams::NAME);
    let mode = fs::metadata(&file).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = fs::read(&file).expect("read");
    let digest = blake3::hash(&bytes);
    let expected = Entry::whole(streams::NAME, Kind::Streams, bytes.len() as u64, digest);
    assert_eq!(entry, expected);
    let found = streams::list(bytes.len() as u64, |at, out| {
        out.copy_from_slice(&bytes[at as usize..][..out.len()]);
        Ok(())
    });
    let found = found.expect("list");
    assert_eq!(found.len(), names.len());
    for (found, name) in found.iter().zip(names) {
        let image = &bytes[found.offset as usize..][..found.size as usize];
        assert_eq!((&found.name, image), (&name, name.as_bytes()));
    }
    // The entry is listed as it is, and not taken again.
    let entries = staging.digest(vec![entry.clone()]).expect("digest");
    assert_eq!(entries.len(), 2);
    assert!(entries.contains(&entry));
}

#[test]
fn a_kill_while_connections_are_packed_leaves_the_older_checkpoint() {
    let mut steps = 0;
    loop {
        let dir = older();
        let staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
        connections(staging.place(), MAX_FILES + 1);
        STEPS.set(Some(steps));
        let packed = staging.pack_streams();
        STEPS.set(Some(0));
        drop(staging);
        STEPS.set(None);
        recovered(dir.path()).expect("recover");
        holds(dir.path(), &OLD);
        if packed.is_ok() {
            // It is created, and each image is removed.
            assert_eq!(steps, MAX_FILES + 2);
            return;
        }
        steps += 1;
    }
}

#[test]
fn many_files_are_published_at_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &["inventory.img"], "new");
    let names = connections(staging.place(), 1000);
    // A step for each file would take the process to its end.
    let steps = 2 * names.len();
    STEPS.set(Some(steps));
    let published = staging.publish(None);
    let left = STEPS.take();
    published.expect("publish");
    // Each file is moved, and the rest is done for all.
    assert!(left.is_some_and(|left| left > names.len() - 20), "{left:?}");
    assert_eq!(contents(dir.path()).len(), names.len() + 1);
}

#[test]
fn an_archive_is_removed_with_its_checkpoint() {
    let dir = older();
    write(dir.path(), &[streams::NAME], "old");
    let mut staging = Staging::prepare(dir.path(), Durability::Disk).expect("staging");
    write(staging.place(), &NEW_NAMES, "new");
    staging.publish(Some(&manifest())).expect("publish");
    is_new(dir.path());
}
