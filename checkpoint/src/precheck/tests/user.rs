//! Restores for an unprivileged user.

use super::dumped::{USER, tree as dumped};
use super::honest::ids;
use super::tree::{Message, Tree};
use crate::precheck::{User, UserFiles, check_user};

const REG: u64 = 1;

/// A file: its number, its path and its position.
fn file(id: u64, path: &[u8], position: u64) -> Message {
    let reg = Message::default()
        .with(1, id)
        .with(2, 0)
        .with(3, position)
        .with(6, path)
        .with(10, 0o100_644);
    Message::default().with(1, REG).with(2, id).with(3, reg)
}

fn of_kind(kind: u64, field: u64, content: Message) -> Message {
    let file = Message::default().with(1, kind).with(2, 9);
    file.with(field, content)
}

/// The user's process in CRIU's namespaces, with its program, which it has open, too, and
/// a file.
fn tree() -> Tree {
    let mut tree = dumped();
    tree.record("inventory.img", 0).set(&[3], [ids(0)]);
    tree.add("ids-7.img", ids(0));
    for (field, value) in [(5, 0), (12, 3)] {
        tree.record("mm-7.img", 0).set(&[field], [value]);
    }
    tree.add("fs-7.img", Message::default().with(1, 1).with(2, 1));
    for (id, path) in [(1, "/"), (3, "/bin/app"), (4, "/bin/app"), (5, "/home/a")] {
        tree.add("files.img", file(id, path.as_bytes(), id));
    }
    for id in [4, 5] {
        let descriptor = [(1, id), (2, 0), (3, REG), (4, id)]
            .into_iter()
            .fold(Message::default(), |record, (field, value)| {
                record.with(field, value)
            });
        tree.add("fdinfo-1.img", descriptor);
    }
    tree
}

fn found(edit: impl FnOnce(&mut Tree)) -> UserFiles {
    let mut tree = tree();
    edit(&mut tree);
    let dir = tempfile::tempdir().expect("tempdir");
    tree.write(dir.path());
    let user = User {
        uid: u32::try_from(USER).expect("an ID"),
        gid: u32::try_from(USER).expect("an ID"),
        groups: Vec::new(),
    };
    check_user(dir.path(), &user).expect("readable images")
}

#[track_caller]
fn is_refused(words: &str, edit: impl FnOnce(&mut Tree)) {
    let found = found(edit).refusals;
    let said = |refusal: &crate::precheck::Refusal| refusal.to_string().contains(words);
    assert!(found.iter().any(said), "{words}: {found:?}");
}

#[test]
fn files_are_listed_by_path() {
    let found = found(|_| ());
    assert_eq!(found.refusals, []);
    let paths: Vec<&str> = found.files.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/", "/bin/app", "/home/a"]);
    let described = |path: &str| -> Vec<bool> {
        let records = found.files[path].iter();
        records.map(|record| record.is_description).collect()
    };
    assert_eq!(described("/bin/app"), [false, true]);
    assert_eq!(described("/home/a"), [true]);
}

#[test]
fn a_path_that_another_file_could_have_is_refused() {
    for path in [&b"/home/\xff"[..], b"", b"home", b"//home", b"/home/../x"] {
        is_refused("not plain text", |tree| {
            tree.add("files.img", file(6, path, 0));
        });
    }
    is_refused("ID of a process", |tree| {
        tree.add("files.img", file(6, b"/proc/77/mem", 0));
    });
    is_refused("process's root", |tree| {
        tree.record("fs-7.img", 0).set(&[2], [5_u64]);
    });
}

#[test]
fn what_criu_finds_by_another_path_is_refused() {
    for kind in [3, 8, 12, 14, 15, 16, 19, 20] {
        is_refused("CRIU's kind", |tree| {
            tree.add("files.img", of_kind(kind, 99, Message::default()));
        });
    }
    for (name, directory) in [
        ("/home/socket", None),
        ("\0name", None),
        ("", Some("/home")),
    ] {
        let named = Message::default().with(1, 9).with(11, name);
        let socket = directory
            .into_iter()
            .fold(named, |socket, at| socket.with(14, at));
        is_refused("CRIU's kind 5", |tree| {
            tree.add("files.img", of_kind(5, 16, socket));
        });
    }
    is_refused("deleted files", |tree| {
        tree.add("remap-fpath.img", Message::default().with(1, 5).with(2, 1));
    });
}

#[test]
fn a_terminal_is_given_anew() {
    let terminal = |regular: Option<u64>| {
        let terminal = Message::default().with(1, 9).with(2, 1);
        of_kind(
            11,
            19,
            regular
                .into_iter()
                .fold(terminal, |terminal, id| terminal.with(6, id)),
        )
    };
    let given = found(|tree| tree.add("files.img", terminal(None)));
    assert_eq!(given.refusals, []);
    let tty = found(|tree| {
        tree.add("files.img", file(6, b"/dev/tty", 0));
        tree.add("files.img", terminal(Some(6)));
    });
    assert_eq!(tty.refusals, []);
    is_refused("terminal of its own", |tree| {
        tree.add("files.img", file(6, b"/dev/pts/3", 0));
        tree.add("files.img", terminal(Some(6)));
    });
}

#[test]
fn namespaces_are_those_of_criu() {
    for kind in 5..=10 {
        is_refused("namespaces of its own", |tree| {
            tree.record("ids-7.img", 0).set(&[kind], [77_u64]);
        });
    }
    for image in ["ids-7.img", "inventory.img"] {
        is_refused("namespaces of its own", |tree| {
            drop(tree.images.remove(image));
        });
    }
}
