use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::file::open_file;
use super::{OpenedDir, Refused, sibling_name};

fn refused(result: std::io::Result<impl Sized>) -> Refused {
    let error = result.err().expect("refused");
    let inner = error.get_ref().expect("a reason");
    inner.downcast_ref::<Refused>().expect("refused").clone()
}

#[test]
fn only_regular_files_with_one_link_are_opened() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "content").expect("write");
    symlink("file", at("link")).expect("symlink");
    symlink("/etc/passwd", at("away")).expect("symlink");
    mkfifo(&at("fifo"), Mode::S_IRWXU).expect("mkfifo");
    fs::create_dir(at("dir")).expect("mkdir");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bind");
    symlink("/dev/zero", at("device")).expect("symlink");

    let opened = OpenedDir::open(dir.path()).expect("open");
    let mut text = String::new();
    let mut file = opened.file("file").expect("a regular file");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "content");
    for (name, why) in [
        ("link", Refused::Link),
        ("away", Refused::Link),
        ("device", Refused::Link),
        ("fifo", Refused::NotRegular),
        ("dir", Refused::NotRegular),
        ("socket", Refused::NotRegular),
        ("", Refused::NotRegular),
        ("..", Refused::NotRegular),
        ("dir/../file", Refused::NotRegular),
    ] {
        assert_eq!(refused(opened.file(name)), why, "{name}");
    }
    assert_eq!(refused(open_file(&at("fifo"))), Refused::NotRegular);
    let missing = opened.file("missing").expect_err("missing");
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);

    fs::hard_link(at("file"), at("second")).expect("link");
    assert_eq!(refused(opened.file("file")), Refused::HardLinks(2));
    fs::remove_file(at("second")).expect("remove");
    opened.file("file").expect("one link again");
}

#[test]
fn files_of_a_third_user_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("file");
    fs::write(&path, "").expect("write");
    let to = |path: &Path, owner| std::os::unix::fs::chown(path, Some(owner), None).is_ok();
    if !to(&path, 1234) {
        eprintln!("skipped: changing an owner needs root");
        return;
    }
    let open = || OpenedDir::open(dir.path()).expect("open").file("file");
    assert_eq!(refused(open()), Refused::Owner(1234));
    // The owner of the directory can replace the file.
    assert!(to(dir.path(), 1234));
    open().expect("of the same owner");
    assert!(to(&path, 0));
    open().expect("root's");
}

#[test]
fn the_directory_is_the_one_that_was_opened() {
    let above = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| above.path().join(name);
    fs::create_dir(at("real")).expect("mkdir");
    fs::write(at("real/file"), "").expect("write");
    symlink("real", at("link")).expect("symlink");
    // The caller's path may be a link.
    let opened = OpenedDir::open(&at("link")).expect("open");
    fs::rename(at("real"), at("moved")).expect("rename");
    fs::create_dir(at("real")).expect("mkdir");
    opened.file("file").expect("in the opened directory");
    assert_eq!(opened.names().expect("names"), ["file"]);
}

#[test]
fn a_parent_is_a_sibling() {
    for (target, name) in [
        ("../first", Some("first")),
        ("../first/", Some("first")),
        ("first", None),
        ("/first", None),
        ("../../first", None),
        ("../first/second", None),
        ("../..", None),
        ("..", None),
        (".", None),
        ("", None),
    ] {
        let found = sibling_name(Path::new(target));
        assert_eq!(found.and_then(|name| name.to_str()), name, "{target}");
    }
    let above = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| above.path().join(name);
    for name in ["second", "first"] {
        fs::create_dir(at(name)).expect("mkdir");
    }
    fs::write(at("first/core-1.img"), "").expect("write");
    symlink("first", at("other")).expect("symlink");
    symlink("../first", at("second/parent")).expect("symlink");
    let second = OpenedDir::open(&at("second")).expect("open");
    let target = second.link("parent").expect("read").expect("a link");
    let first = second.sibling(&target).expect("a sibling");
    first.file("core-1.img").expect("its file");
    assert_eq!(first.path(), at("first"));
    for target in ["../other", "../second/parent", "../../etc", "/etc"] {
        second.sibling(Path::new(target)).expect_err(target);
    }
    assert_eq!(
        refused(second.sibling(Path::new("../other"))),
        Refused::NoDirectory
    );
    assert_eq!(refused(first.link("core-1.img")), Refused::NoLink);
    assert_eq!(first.link("missing").expect("none"), None);
    // A file belongs to a subdirectory only if that is no link.
    assert_eq!(refused(second.subdirectory("parent")), Refused::NoDirectory);
    let _ = OpenedDir::open(above.path())
        .expect("open")
        .subdirectory("first")
        .expect("open");
}
