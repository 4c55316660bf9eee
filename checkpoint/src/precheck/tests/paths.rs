//! Recorded paths, in a container that has changed its files since.

use std::fs;
use std::os::unix::fs::symlink;

use super::honest::{Case, file};
use super::tree::Message;
use crate::precheck::CapabilitySet;

fn with(path: &str, mode: u64, mount: u64) -> Case {
    let mut case = Case::honest();
    case.tree.add("files.img", file(9, path, mode, mount));
    case
}

const FILE: u64 = 0o100_644;

#[test]
fn a_link_in_a_path_is_refused() {
    let replace = |what: &str| {
        let case = Case::honest();
        let path = case.host.path().join(what);
        let moved = case.host.path().join("moved");
        fs::rename(&path, &moved).expect("rename");
        symlink(&moved, &path).expect("symlink");
        case.is_refused("symbolic link");
    };
    // A directory of the root, the file itself, and a directory of a bind mount.
    replace("root/bin");
    replace("root/bin/app");
    replace("volume/deep");
}

#[test]
fn a_path_is_plain() {
    for path in [
        "bin/app",
        "//bin/app",
        "/bin/../bin/app",
        "/bin/./app",
        "",
        "/bin//app",
        "x/bin/app",
    ] {
        with(path, FILE, 20).is_refused("leads elsewhere");
    }
    with("/", 0o40_755, 20).passes();
}

#[test]
fn an_open_file_is_not_made() {
    for flags in [0o100_u64, 0o1000] {
        let mut case = Case::honest();
        case.tree.record("files.img", 0).set(&[3, 2], [flags]);
        case.is_refused("made or emptied");
    }
}

#[test]
fn a_file_is_of_the_type_that_was_open() {
    let case = Case::honest();
    let app = case.host.path().join("root/bin/app");
    fs::remove_file(&app).expect("remove");
    nix::unistd::mkfifo(&app, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("mkfifo");
    case.is_refused("another type");
    // CRIU says that a file is missing.
    fs::remove_file(&app).expect("remove");
    case.passes();
}

#[test]
fn links_of_proc_are_refused() {
    for path in [
        "/proc/1/root/etc/shadow",
        "/proc/self/fd/3/etc",
        "/proc/1/fd/3",
        "/proc/1/cwd",
        "/proc/thread-self/stat",
        "/proc/1/task/1/fd/4/x",
    ] {
        with(path, FILE, 21).is_refused("leads out of proc");
    }
    for path in [
        "/proc/1/status",
        "/proc/1/task/1/stat",
        "/proc/1/fdinfo/3",
        "/proc/1/ns",
    ] {
        with(path, FILE, 21).passes();
    }
}

/// An archive as CRIU's tar makes it, with a link.
pub(super) fn archive(link: &str) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(encoder);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive
        .append_link(&mut header, link, "/proc/self/fd")
        .expect("a link");
    archive
        .into_inner()
        .and_then(|encoder| encoder.finish())
        .expect("an archive")
}

#[test]
fn links_in_the_files_of_a_tmpfs_are_refused() {
    let name = "tmpfs-dev-122.tar.gz.img";
    for (link, passes) in [
        ("./shm", false),
        ("shm/file", false),
        ("./shm/other", true),
        ("./sh", true),
    ] {
        let mut case = with("/dev/shm/file", FILE, 22);
        case.passes();
        case.tree.others.insert(name.to_owned(), archive(link));
        match passes {
            true => case.passes(),
            false => case.is_refused("/dev/shm/file has a symbolic link"),
        }
    }
}

#[test]
fn a_deleted_files_directory_has_no_link() {
    let mut case = with("/bin/deep/ghost", FILE, 20);
    let remap = Message::default().with(1, 9).with(2, 1).with(3, 1);
    case.tree.add("remap-fpath.img", remap);
    case.passes();
    symlink("/etc", case.host.path().join("root/bin/deep")).expect("symlink");
    case.is_refused("symbolic link");
}

fn socket(name: &str, dir: Option<&str>) -> Case {
    let mut case = Case::honest();
    let usk = Message::default().with(1, 9).with(11, name);
    let usk = dir.into_iter().fold(usk, |usk, dir| usk.with(14, dir));
    let entry = Message::default().with(1, 5).with(2, 9).with(16, usk);
    case.tree.add("files.img", entry);
    case
}

#[test]
fn a_sockets_path_does_not_lead_through_proc() {
    // An application's path may have links.
    let case = socket("/var/run/app.sock\0", None);
    symlink("/bin", case.host.path().join("root/var")).expect("symlink");
    case.passes();
    symlink("../proc/self/fd/3", case.host.path().join("root/bin/run")).expect("symlink");
    case.is_refused("leads through proc");
    socket("/proc/self/fd/3/x", None).is_refused("leads through proc");
    socket("x", Some("/proc/1/cwd")).is_refused("leads through proc");
    socket("\0/proc/self/fd/3", None).passes();
    let loop_of_links = socket("/bin/loop/x", None);
    symlink("loop", loop_of_links.host.path().join("root/bin/loop")).expect("symlink");
    loop_of_links.is_refused("leads through proc");
}

#[test]
fn a_ghost_is_a_file_that_the_container_could_make() {
    let ghost = |mode: u64| {
        let mut case = Case::honest();
        let record = Message::default().with(1, 0).with(2, 0).with(3, mode);
        case.tree.add("ghost-file-1.img", record);
        case
    };
    for mode in [0o100_644, 0o40_755, 0o10_600, 0o104_755] {
        ghost(mode).passes();
    }
    // A link, which CRIU would follow; a device; a program of root's.
    ghost(0o120_777).is_refused("ghost-file-1.img");
    let mut device = ghost(0o60_660);
    device.passes();
    device.granted.bounding = CapabilitySet::default();
    device.is_refused("ghost-file-1.img");
    let mut program = ghost(0o104_755);
    program.granted.user.uid = 1000;
    program.is_refused("ghost-file-1.img");
}

#[test]
fn a_deleted_file_is_made_on_the_mount_of_its_path() {
    let mut case = with("/data/deep/ghost", FILE, 20);
    let remap = Message::default().with(1, 9).with(2, 1).with(3, 1);
    case.tree.add("remap-fpath.img", remap);
    case.is_refused("is on another mount");
}

#[test]
fn only_deleted_files_are_made() {
    // A remap of another kind, or of another file, leaves a path to be opened.
    for (orig, kind) in [(9, 2), (1, 1)] {
        let mut case = with("/bin/link", FILE, 20);
        symlink("/proc/self/fd/3", case.host.path().join("root/bin/link")).expect("symlink");
        let remap = Message::default().with(1, orig).with(2, 9).with(3, kind);
        case.tree.add("remap-fpath.img", remap);
        case.is_refused("symbolic link");
    }
    let mut case = Case::honest();
    case.tree.record("files.img", 0).set(&[3, 1], [7_u64]);
    case.is_refused("two numbers");
}

#[test]
fn a_link_itself_may_be_open() {
    let mut case = with("/bin/link", 0o120_777, 20);
    symlink("/etc", case.host.path().join("root/bin/link")).expect("symlink");
    case.is_refused("symbolic link");
    case.tree
        .record("files.img", 3)
        .set(&[3, 2], [0o10_400_000_u64]);
    case.passes();
}

#[test]
fn files_of_the_machine_need_their_capability() {
    let mut case = with("/proc/kmsg", FILE, 21);
    case.is_refused("memory or log");
    case.granted.bounding = CapabilitySet::named(["syslog"]);
    let is_refused = |case: &Case| {
        case.refusals()
            .iter()
            .any(|refusal| refusal.wants.contains("memory or log"))
    };
    assert!(!is_refused(&case));
    let mut case = with("/proc/1/pagemap", FILE, 21);
    case.is_refused("memory or log");
    case.granted.bounding = CapabilitySet::named(["sys_admin"]);
    assert!(!is_refused(&case));
}

#[test]
fn archives_are_read_as_tar_reads_them() {
    let name = "tmpfs-dev-122.tar.gz.img";
    let gzip = |tar: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, tar).expect("write");
        encoder.finish().expect("an archive")
    };
    let entries = |entries: &[(tar::EntryType, &str, &str)]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, path, target) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(0);
            header.set_mode(0o755);
            archive
                .append_link(&mut header, path, target)
                .expect("an entry");
        }
        archive.into_inner().expect("an archive")
    };
    let link = entries(&[(tar::EntryType::Symlink, "shm", "/proc/self/fd")]);
    // Two members of one gzip file, and another name of a link.
    let members = [gzip(&link[..512]), gzip(&link[512..])].concat();
    let hard = entries(&[
        (tar::EntryType::Symlink, "other", "/proc/self/fd"),
        (tar::EntryType::Link, "shm", "other"),
    ]);
    let long = "d/".repeat(80) + "x";
    let longer = entries(&[(tar::EntryType::Symlink, &long, "/proc")]);
    for (archive, path) in [
        (members, "/dev/shm/file".to_owned()),
        (gzip(&hard), "/dev/shm/file".to_owned()),
        (gzip(&longer), format!("/dev/{long}/y")),
    ] {
        let mut case = with(&path, FILE, 22);
        case.passes();
        case.tree.others.insert(name.to_owned(), archive);
        case.is_refused("has a symbolic link");
    }
}
