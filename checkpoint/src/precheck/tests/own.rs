//! Mounts that a container with CAP_SYS_ADMIN made itself.

use std::fs;
use std::os::unix::fs::symlink;

use super::honest::{CAPABILITIES, Case, file, mount};
use super::paths::archive;
use super::tree::Message;
use crate::precheck::{CapabilitySet, MountEntry, Namespace};

const IMAGE: &str = "mountpoints-49.img";
/// The mounts of a namespace within the container's.
const NESTED: &str = "mountpoints-77.img";
/// The file systems of the root, of /dev and of the bind mount.
const ROOT: u64 = 120;
const DEV: u64 = 122;
const VOLUME: u64 = 123;

/// A container with CAP_SYS_ADMIN, and a mount of its own.
fn with(record: Message) -> Case {
    let mut case = Case::honest();
    let words = CAPABILITIES.map(|word| u32::try_from(word).expect("a word"));
    case.granted.bounding = CapabilitySet::of_words(&[words[0] | 1 << 21, words[1]]);
    case.tree.add(IMAGE, record);
    case
}

/// A mount that shows a directory of the file system `device`.
fn bind(fstype: u64, device: u64, root: &str) -> Message {
    let mut record = mount([fstype, 30, 20, 0], root, "/mnt");
    record.set(&[3], [device]);
    record
}

fn replace_by_link(case: &Case, what: &str) {
    let path = case.host.path().join(what);
    let moved = case.host.path().join("moved");
    fs::rename(&path, &moved).expect("rename");
    symlink(&moved, &path).expect("symlink");
}

#[test]
fn directories_of_the_root_and_of_bind_mounts() {
    for (fstype, device, root, path) in [
        (17, ROOT, "/data", "root/data"),
        (0, VOLUME, "/srv/volume/deep", "volume/deep"),
    ] {
        let case = with(bind(fstype, device, root));
        case.passes();
        replace_by_link(&case, path);
        case.is_refused("/mnt may show a directory behind a symbolic link");
        let mut case = with(bind(fstype, device, root));
        case.granted.bounding = Case::honest().granted.bounding;
        case.is_refused("/mnt");
    }
    // All of it, and a directory above it.
    with(bind(17, ROOT, "/")).passes();
    with(bind(0, VOLUME, "/srv/volume")).passes();
    with(bind(0, VOLUME, "/srv")).is_refused("/mnt");
    with(bind(17, ROOT, "/data/../..")).is_refused("/mnt");
}

#[test]
fn files_on_them_are_looked_up() {
    let mut case = with(bind(17, ROOT, "/data"));
    let data = case.host.path().join("root/data");
    fs::create_dir(data.join("directory")).expect("mkdir");
    fs::write(data.join("directory/file"), "").expect("write");
    case.tree
        .add("files.img", file(9, "/mnt/directory/file", 0o100_644, 30));
    case.passes();
    replace_by_link(&case, "root/data/directory");
    case.is_refused("/mnt/directory/file has a symbolic link");
}

#[test]
fn a_new_file_system_is_none_of_the_root() {
    // CRIU would mount it, with the host's directories.
    let mut overlay = bind(17, ROOT, "/");
    overlay.set(&[9], ["lowerdir=/etc"]);
    with(overlay).is_refused("/mnt");
    // CRIU compares no type with an external mount's.
    let case = with(bind(2, VOLUME, "/srv/volume/deep"));
    replace_by_link(&case, "volume/deep");
    case.is_refused("/mnt may show");
}

#[test]
fn a_hidden_link_of_a_tmpfs() {
    // A mount of its own hides /dev/a from look-ups by path, but not from CRIU.
    let mut case = with(bind(5, DEV, "/a/b"));
    case.tree.add(IMAGE, mount([5, 31, 22, 0], "/", "/dev/a"));
    case.passes();
    let name = format!("tmpfs-dev-{DEV}.tar.gz.img");
    case.tree.others.insert(name.clone(), archive("./c"));
    case.passes();
    case.tree.others.insert(name, archive("./a"));
    case.is_refused("/dev/a/b has a symbolic link");
}

#[test]
fn file_systems_of_the_kernel() {
    for kernels in [8, 9, 10, 11] {
        let mut case = with(mount([kernels, 30, 20, 0], "/", "/mnt"));
        case.passes();
        case.granted.namespaces.insert(Namespace::User);
        case.is_refused("/mnt has a file system of type");
    }
    // CRIU adds MS_REC to a debugfs. It would bind one with MS_BIND, too.
    with(mount([11, 30, 20, 0x4000], "/", "/mnt")).passes();
    with(mount([11, 30, 20, 0x5000], "/", "/mnt")).is_refused("bind or move");
    with(mount([10, 30, 20, 0x4000], "/", "/mnt")).is_refused("bind or move");
    // devtmpfs and binfmt_misc, whose contents CRIU would restore, and others.
    for other in [0, 3, 4, 7, 13, 15, 16, 18, 19, 20] {
        with(mount([other, 30, 20, 0], "/", "/mnt")).is_refused("/mnt");
    }
}

#[test]
fn locked_flags_stay_in_a_user_namespace() {
    let mut record = bind(0, VOLUME, "/srv/volume/deep");
    let mut case = with(record.clone());
    case.passes();
    case.granted.namespaces.insert(Namespace::User);
    case.is_refused("/mnt is not read-only");
    record.set(&[5], [1_u64]);
    let mut case = with(record);
    case.granted.namespaces.insert(Namespace::User);
    let refusals = case.refusals();
    let of_mount = |subject: &str| subject.contains("/mnt");
    assert!(!refusals.iter().any(|refusal| of_mount(&refusal.subject)));
}

/// A namespace within the container's: its root, and another mount.
fn nested(record: Message) -> Case {
    let mut case = with(mount([5, 30, 20, 0], "/", "/mnt"));
    let mut root = mount([17, 40, 1, 0], "/", "/");
    root.set(&[3], [ROOT]);
    case.tree.add(NESTED, root);
    case.tree.add(NESTED, record);
    case
}

/// A mount there that shows a directory of the file system `device`.
fn own(fstype: u64, device: u64, root: &str) -> Message {
    let mut record = mount([fstype, 41, 40, 1], root, "/x");
    record.set(&[3], [device]);
    record
}

#[test]
fn files_in_namespaces_within_the_containers() {
    let case = |path: &str, mount: u64| {
        let mut case = nested(own(17, ROOT, "/data"));
        let deep = case.host.path().join("root/data/deep");
        fs::create_dir(&deep).expect("mkdir");
        fs::write(deep.join("file"), "").expect("write");
        case.tree.add("files.img", file(9, path, 0o100_644, mount));
        case
    };
    // The container's own /x is another directory.
    let found = case("/x/deep/file", 41);
    found.passes();
    replace_by_link(&found, "root/data/deep");
    found.is_refused("/x/deep/file has a symbolic link");
    case("/x/../etc/passwd", 41).is_refused("leads elsewhere");
    case("/x/deep/file", 99).is_refused("is on another mount");
    nested(own(1, 200, "/")).passes();
    let mut proc = nested(own(1, 200, "/"));
    proc.tree
        .add("files.img", file(9, "/x/1/root/etc", 0o40_755, 41));
    proc.is_refused("leads out of proc");
}

#[test]
fn namespaces_within_the_containers() {
    // One of the container's, with other flags.
    nested(own(0, VOLUME, "/srv/volume").with(18, "/data")).passes();
    nested(own(0, VOLUME, "/srv/volume").with(18, "/other")).is_refused("/x may lead out");
    // Directories of the root, of a bind mount, and of a tmpfs of the container.
    for (fstype, device, path) in [
        (17, ROOT, "/data"),
        (0, VOLUME, "/srv/volume/deep"),
        (5, DEV, "/a"),
    ] {
        nested(own(fstype, device, path)).passes();
    }
    let case = nested(own(17, ROOT, "/data"));
    replace_by_link(&case, "root/data");
    case.is_refused("/x may show");
    nested(own(17, 200, "/")).is_refused("/x may lead out");
    nested(own(0, 200, "/etc")).is_refused("/x may lead out");
    // A controller of cgroup v1, which CRIU binds if its options are the same.
    let mut case = nested(own(12, 132, "/docker/c"));
    let of = |options: &str| {
        let controller = mount([12, 32, 20, 0], "/docker/c", "/data");
        let mut controller = controller.with(18, "/data");
        controller.set(&[9], [options]);
        controller
    };
    *case.tree.record(IMAGE, 3) = of("");
    let of_mount = |case: &Case| {
        let refusals = case.refusals();
        let refusals = refusals.iter();
        refusals
            .filter(|refusal| refusal.subject.contains("/x"))
            .count()
    };
    assert_eq!(of_mount(&case), 0);
    *case.tree.record(IMAGE, 3) = of("pids");
    assert_eq!(of_mount(&case), 1);
    // A root that is bound from no mount of the container.
    let mut case = nested(own(17, 200, "/data"));
    case.tree.record(NESTED, 0).set(&[3], [200_u64]);
    case.is_refused("the mount on / may lead out");
    case.is_refused("/x may lead out");
    // CRIU binds across namespaces.
    let mut case = nested(own(5, 200, "/"));
    let mut across = mount([5, 31, 20, 0], "/a/b", "/opt");
    across.set(&[3], [200_u64]);
    case.tree.add(IMAGE, across);
    case.passes();
    let name = "tmpfs-dev-200.tar.gz.img".to_owned();
    case.tree.others.insert(name, archive("./a"));
    case.is_refused("/x/a/b has a symbolic link");
    // A number that is another mount's hides a base.
    let mut twice = own(5, DEV, "/");
    twice.set(&[2], [22_u64]);
    nested(twice).is_refused("has two mounts 22");
}

/// Makes the bind mount on /data seem to be of another file system.
fn disguise(case: &mut Case, fstype: u64, device: u64, root: &str, options: &str) {
    let record = case.tree.record(IMAGE, 3);
    record.set(&[1], [fstype]);
    record.set(&[3], [device]);
    record.set(&[6], [root]);
    record.set(&[9], [options]);
}

#[test]
fn an_external_mount_is_not_the_root() {
    let mut case = with(bind(17, ROOT, "/data"));
    disguise(&mut case, 17, ROOT, "/", "");
    // The files of the root are still looked up in the root.
    replace_by_link(&case, "root/bin");
    case.is_refused("/bin/app has a symbolic link");
    case.is_refused("shows one of several directories");
}

#[test]
fn a_mount_that_criu_may_bind_or_not() {
    // CRIU compares the options with an external mount's, too.
    for (options, others) in [("", "lowerdir=/etc:/usr"), ("lowerdir=/etc:/usr", "")] {
        let mut overlay = bind(17, 200, "/");
        overlay.set(&[9], [options]);
        let mut case = with(overlay);
        disguise(&mut case, 17, 200, "/", others);
        case.is_refused("/mnt");
    }
    // A third mount can take the external one from it.
    let mut case = with(bind(17, 200, "/"));
    disguise(&mut case, 17, 200, "/", "");
    case.passes();
    let mut third = mount([17, 31, 20, 0], "/", "/opt");
    third.set(&[3], [200_u64]);
    third.set(&[8], ["other"]);
    case.tree.add(IMAGE, third);
    case.is_refused("/mnt");
}

#[test]
fn a_file_system_of_its_own_has_no_number_of_the_hosts() {
    for fstype in [1, 2, 5, 6, 14] {
        with(bind(fstype, VOLUME, "/")).is_refused("/mnt has the file system of");
        let mut case = nested(own(fstype, VOLUME, "/"));
        case.is_refused("/x has the file system of");
        // Without CAP_SYS_ADMIN CRIU could bind it, too.
        case = Case::honest();
        disguise(&mut case, 0, 121, "/", "");
        case.is_refused("/proc has the file system of");
    }
    // The host's sysfs may be the container's.
    let mut case = with(bind(2, VOLUME, "/"));
    let is_sysfs = |case: &Case| {
        let refusals = case.refusals();
        !refusals
            .iter()
            .any(|refusal| refusal.subject.contains("/mnt"))
    };
    assert!(!is_sysfs(&case));
    case.granted.mounts.entries[2].source = Some("/sys".into());
    assert!(is_sysfs(&case));
}

#[test]
fn one_name_of_a_file_system_is_one_directory() {
    let mut case = with(bind(0, VOLUME, "/srv/volume/deep"));
    case.passes();
    let other = mount([0, 31, 20, 0], "/srv/volume", "/other").with(18, "/other");
    let mut other = other;
    other.set(&[3], [VOLUME]);
    case.tree.add(IMAGE, other);
    let second = case.host.path().join("second");
    fs::create_dir_all(second.join("deep")).expect("mkdir");
    case.granted.mounts.entries.push(MountEntry {
        destination: "/other".to_owned(),
        kind: "bind".to_owned(),
        source: Some(second),
        ..MountEntry::default()
    });
    case.is_refused("/mnt shows one of several directories");
    case.granted.mounts.entries[3].source = case.granted.mounts.entries[2].source.clone();
    case.passes();
}

#[test]
fn the_mount_that_is_seen_is_looked_up() {
    let name = "tmpfs-dev-131.tar.gz.img".to_owned();
    // A tmpfs on top of the bind mount, though listed before it; and one that hides it.
    for (first, second) in [
        (mount([5, 31, 30, 0], "/", "/mnt"), bind(17, ROOT, "/data")),
        (mount([5, 31, 20, 0], "/", "/mnt"), {
            let mut below = bind(17, ROOT, "/data");
            below.set(&[7], ["/mnt/sub"]);
            below
        }),
    ] {
        let mut case = with(first);
        case.tree.add(IMAGE, second);
        let path = "/mnt/sub/x/passwd";
        case.tree.add("files.img", file(9, path, 0o100_644, 31));
        case.passes();
        case.tree.others.insert(name.clone(), archive("./sub/x"));
        case.is_refused("/mnt/sub/x/passwd has a symbolic link");
    }
}
