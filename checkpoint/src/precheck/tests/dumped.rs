//! Dumps for an unprivileged user.

use super::honest::core;
use super::tree::{Message, Tree};
use crate::precheck::{User, check_dumped};

pub(super) const USER: u64 = 1000;

/// A process of the user's with two threads, and a dead child.
pub(super) fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.add("inventory.img", Message::default().with(1, 2));
    for (pid, threads) in [(7, &[7_u64, 8][..]), (9, &[9])] {
        let process = Message::default()
            .with(1, pid)
            .with(2, 0)
            .with(3, 1)
            .with(4, 1);
        tree.add("pstree.img", process.with_all(5, threads.iter().copied()));
    }
    for (name, leader) in [("core-7.img", true), ("core-8.img", false)] {
        tree.add(name, core(leader));
        for id in 1..=8 {
            tree.record(name, 0).set(&[5, 10, id], [USER]);
        }
        for set in 10..=11 {
            tree.record(name, 0).set(&[5, 10, set], [0_u64]);
        }
    }
    let dead = Message::default().with(1, 6).with(6, "dead");
    tree.add("core-9.img", Message::default().with(1, 1).with(3, dead));
    tree.add("mm-7.img", Message::default().with(12, 1).with(15, 1));
    tree.add(
        "ghost-file-1.img",
        Message::default().with(1, USER).with(3, 0o100_600),
    );
    tree
}

#[track_caller]
fn refused(edit: impl FnOnce(&mut Tree)) -> String {
    let mut tree = tree();
    edit(&mut tree);
    let dir = tempfile::tempdir().expect("tempdir");
    tree.write(dir.path());
    let user = User {
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
    };
    let found = check_dumped(dir.path(), &user).expect("readable images");
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

#[test]
fn a_user_gets_the_memory_of_own_processes_alone() {
    assert_eq!(refused(|_| ()), "");
    // Any ID of any thread.
    for (image, id) in [("core-7.img", 3), ("core-8.img", 5), ("core-8.img", 8)] {
        let text = refused(|tree| tree.record(image, 0).set(&[5, 10, id], [0_u64]));
        assert!(text.contains("process 7 (app)"), "{text}");
    }
    for set in [9, 10, 11, 19] {
        let capability = |tree: &mut Tree| tree.record("core-8.img", 0).set(&[5, 10, set], [1_u64]);
        assert!(refused(capability).contains("CHOWN"), "{set}");
    }
    let text = refused(|tree| tree.record("mm-7.img", 0).set(&[15], [2_u64]));
    assert!(text.contains("protected"), "{text}");
}

#[test]
fn what_is_missing_is_refused() {
    let text = refused(|tree| tree.record("mm-7.img", 0).set(&[15], [0_u64; 0]));
    assert!(text.contains("protected"), "{text}");
    for image in ["core-7.img", "core-8.img", "mm-7.img", "pstree.img"] {
        let text = refused(|tree| drop(tree.images.remove(image)));
        assert_ne!(text, "", "{image}");
    }
}

#[test]
fn deleted_files_of_others_are_refused() {
    let text = refused(|tree| tree.record("ghost-file-1.img", 0).set(&[1], [0_u64]));
    assert!(text.contains("deleted file of another user"), "{text}");
}

#[test]
fn a_path_that_no_restore_could_open_is_refused() {
    let file = |path: &[u8]| {
        let file = Message::default().with(1, 1).with(2, 0).with(6, path);
        Message::default().with(1, 1).with(2, 1).with(3, file)
    };
    assert_eq!(refused(|tree| tree.add("files.img", file(b"/a"))), "");
    let text = refused(|tree| tree.add("files.img", file(b"/a\xff")));
    assert!(text.contains("not plain text"), "{text}");
}
