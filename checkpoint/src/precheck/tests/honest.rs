//! A container as Docker makes it, and the checkpoint that CRIU takes of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::tree::{Message, Tree};
use crate::precheck::{
    CapabilitySet, Granted, MountEntry, Mounts, Namespace, Refusal, User, check,
};

/// The capabilities that Docker gives, in words of CRIU's images.
pub(super) const CAPABILITIES: [u64; 2] = [0xa804_25fb, 0];

/// A checkpoint, the configuration, and the host's files of the container.
pub(super) struct Case {
    pub(super) tree: Tree,
    pub(super) granted: Granted,
    pub(super) host: TempDir,
}

impl Case {
    pub(super) fn honest() -> Self {
        let host = tempfile::tempdir().expect("tempdir");
        for directory in ["root/bin", "root/data", "root/proc", "volume/deep"] {
            fs::create_dir_all(host.path().join(directory)).expect("mkdir");
        }
        for file in ["root/bin/app", "volume/deep/file"] {
            fs::write(host.path().join(file), "").expect("write");
        }
        Self {
            tree: tree(),
            granted: granted(host.path()),
            host,
        }
    }

    /// What is refused.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let dir = tempfile::tempdir().expect("tempdir");
        self.tree.write(dir.path());
        check(dir.path(), &self.granted).expect("readable images")
    }

    /// Asserts that nothing is refused.
    #[track_caller]
    pub(super) fn passes(&self) {
        assert_eq!(self.refusals(), []);
    }

    /// Asserts that something is refused, in these words.
    #[track_caller]
    pub(super) fn is_refused(&self, words: &str) {
        let refusals = self.refusals();
        let found = refusals
            .iter()
            .any(|refusal| refusal.to_string().contains(words));
        assert!(found, "{words:?} is not in {refusals:?}");
    }
}

fn granted(host: &Path) -> Granted {
    let words = CAPABILITIES.map(|word| u32::try_from(word).expect("a word"));
    let mount = |destination: &str, kind: &str| MountEntry {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        ..MountEntry::default()
    };
    Granted {
        user: User::default(),
        bounding: CapabilitySet::of_words(&words),
        permitted: CapabilitySet::of_words(&words),
        no_new_privileges: true,
        seccomp: true,
        namespaces: BTreeSet::from([
            Namespace::Ipc,
            Namespace::Mount,
            Namespace::Network,
            Namespace::Pid,
            Namespace::Uts,
        ]),
        limits: vec![(7, 1024)],
        oom_score_adj: Some(0),
        mounts: Mounts {
            root: host.join("root"),
            entries: vec![
                mount("/proc", "proc"),
                mount("/dev", "tmpfs"),
                MountEntry {
                    source: Some(host.join("volume")),
                    flags: 1,
                    ..mount("/data", "bind")
                },
            ],
            masked: vec!["/proc/uptime".to_owned(), "/proc/no-such-path".to_owned()],
            read_only: vec!["/proc/sys".to_owned()],
            ..Mounts::default()
        },
        ..Granted::default()
    }
}

/// Numbers of namespaces: of CRIU from 2 on, of the container from `first` on.
pub(super) fn ids(first: u64) -> Message {
    let objects = Message::default()
        .with_all(1, [1_u64])
        .with(2, 1)
        .with(3, 1)
        .with(4, 1);
    let kinds = (5..=12).filter(|kind| ![10, 11, 12].contains(kind));
    let own = kinds.fold(objects, |ids, kind| ids.with(kind, first + kind));
    // The user, cgroup and time namespaces are the host's.
    [10, 11, 12]
        .into_iter()
        .fold(own, |ids, kind| ids.with(kind, 2 + kind))
}

fn creds() -> Message {
    let ids = (1..=8).fold(Message::default(), |creds, number| creds.with(number, 0));
    let sets = [10, 11, 12].into_iter();
    sets.fold(ids, |creds, set| creds.with_all(set, CAPABILITIES))
        .with_all(9, [0_u64, 0])
        .with(13, 0)
        .with(18, 1)
}

/// A thread; of a leader with the part that only leaders have.
pub(super) fn core(leader: bool) -> Message {
    let thread = Message::default()
        .with(1, 0)
        .with(2, 0)
        .with(10, creds())
        .with(11, 2)
        .with(12, 0)
        .with(16, 2);
    let core = Message::default().with(1, 1);
    let limit = |hard: u64| Message::default().with(1, 0).with(2, hard);
    let limits = Message::default().with_all(
        1,
        (0..16).map(|number| limit(if number == 7 { 1024 } else { u64::MAX })),
    );
    let task = Message::default()
        .with(1, 1)
        .with(2, 0)
        .with(3, 0)
        .with(4, 0)
        .with(5, 0)
        .with(6, "app")
        .with(8, limits);
    match leader {
        true => core.with(3, task).with(5, thread),
        false => core.with(5, thread),
    }
}

/// A mount: type, ID, parent, flags, root, mountpoint.
pub(super) fn mount(numbers: [u64; 4], root: &str, mountpoint: &str) -> Message {
    let [fstype, id, parent, flags] = numbers;
    Message::default()
        .with(1, fstype)
        .with(2, id)
        .with(3, id + 100)
        .with(4, parent)
        .with(5, flags)
        .with(6, root)
        .with(7, mountpoint)
        .with(8, "source")
        .with(9, "")
        .with(17, 0)
}

/// An open file: its ID, its path, its mode and its mount.
pub(super) fn file(id: u64, path: &str, mode: u64, mount: u64) -> Message {
    let regular = Message::default()
        .with(1, id)
        .with(2, 0)
        .with(3, 0)
        .with(6, path)
        .with(7, mount * 2)
        .with(10, mode);
    Message::default().with(1, 1).with(2, id).with(3, regular)
}

fn cgroups() -> Message {
    let member = Message::default().with(1, "pids").with(2, "/docker/c");
    let perms = Message::default().with(1, 0o40_755).with(2, 0).with(3, 0);
    let directory = Message::default()
        .with(1, "docker/c")
        .with(3, Message::default().with(1, "pids.max").with(2, "max"))
        .with(4, perms);
    Message::default()
        .with(1, Message::default().with(1, 2).with(2, member))
        .with(2, Message::default().with(1, "pids").with(2, directory))
}

fn tree() -> Tree {
    let mut tree = Tree::default();
    tree.add(
        "inventory.img",
        Message::default().with(1, 2).with(3, ids(2)),
    );
    let process = Message::default()
        .with(1, 1)
        .with(2, 0)
        .with(3, 1)
        .with(4, 1)
        .with_all(5, [1_u64, 2]);
    tree.add("pstree.img", process);
    tree.add("core-1.img", core(true));
    tree.add("core-2.img", core(false));
    tree.add("ids-1.img", ids(40));
    let filter = Message::default().with(1, "filter");
    tree.add("seccomp.img", Message::default().with(1, filter));
    let mounts = [
        mount([17, 20, 1, 0], "/", "/"),
        mount([1, 21, 20, 0xe], "/", "/proc"),
        mount([5, 22, 20, 2], "/", "/dev"),
        mount([0, 23, 20, 1], "/srv/volume", "/data").with(18, "/data"),
        mount([5, 24, 21, 0], "/null", "/proc/uptime").with(18, "/dev/null"),
        mount([1, 25, 21, 1], "/sys", "/proc/sys"),
    ];
    for mount in mounts {
        // The number of the container's mount namespace.
        tree.add("mountpoints-49.img", mount);
    }
    // /proc/sys is of the file system of /proc, the cover of that of /dev.
    tree.record("mountpoints-49.img", 5).set(&[3], [121_u64]);
    tree.record("mountpoints-49.img", 4).set(&[3], [122_u64]);
    tree.add("files.img", file(1, "/bin/app", 0o100_755, 20));
    tree.add("files.img", file(2, "/data/deep/file", 0o100_644, 23));
    tree.add("files.img", file(3, "/proc/1/fd", 0o40_555, 21));
    tree.add("cgroup.img", cgroups());
    tree
}
