//! One recorded mount: what CRIU would make of it, and the configuration's entry for it.

use super::granted::MountEntry;
use super::messages::Mount;

// Flags of mount(2).
pub(super) const READ_ONLY: u32 = 1;
/// The flags that CRIU records of a file system (criu/proc_parse.c): read-only,
/// synchronous, mandatory locks, synchronous directories. The others make a bind mount
/// or move one.
const FILE_SYSTEM_FLAGS: u32 = 0x1 | 0x10 | 0x40 | 0x80;
/// The flags that CRIU records of a mount: read-only, nosuid, nodev, noexec, noatime,
/// nodiratime, relatime, strictatime, and the propagation.
const MOUNT_FLAGS: u32 =
    0xf | 0x400 | 0x800 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x10_0000 | 0x20_0000 | 0x100_0000;

/// `MS_REC`, which CRIU adds to a debugfs (criu/filesystems.c, `debugfs_parse`). Without
/// `MS_BIND` the kernel ignores it.
const RECURSIVE: u32 = 0x4000;

/// CRIU's numbers of file system types (mnt.proto) that a configuration can mount, with
/// their names.
const KINDS: [(u32, &str); 9] = [
    (1, "proc"),
    (2, "sysfs"),
    (5, "tmpfs"),
    (6, "devpts"),
    (12, "cgroup"),
    (14, "mqueue"),
    (OVERLAY, "overlay"),
    (23, "cgroup2"),
    (3, "devtmpfs"),
];
pub(super) const PROC: u32 = 1;
pub(super) const TMPFS: u32 = 5;
const DEVPTS: u32 = 6;
pub(super) const DEBUGFS: u32 = 11;
pub(super) const OVERLAY: u32 = 17;

/// The key by which runc has CRIU cover a file.
pub(super) const NULL: &str = "/dev/null";

/// What a checkpoint wants, and what the configuration gives.
pub(super) type Difference = (String, String);

pub(super) fn differs(wants: &str, gives: &str) -> Difference {
    (wants.to_owned(), gives.to_owned())
}

/// What no mount of runc's or crun's containers has.
pub(super) fn unusual(mount: &Mount) -> Option<&'static str> {
    if mount.with_plugin == Some(true) {
        return Some("is made by a plugin of CRIU");
    }
    if mount.deleted == Some(true) {
        return Some("is of a deleted directory");
    }
    if mount.fsname.is_some() {
        return Some("names its file system's type");
    }
    if mount.ext_mount == Some(true) {
        return Some("is external in the form of CRIU before 4.0");
    }
    let more = match mount.fstype {
        DEBUGFS => RECURSIVE,
        _ => 0,
    };
    if mount
        .sb_flags
        .is_none_or(|flags| flags & !FILE_SYSTEM_FLAGS != 0)
        || mount.flags & !(MOUNT_FLAGS | more) != 0
    {
        return Some("has flags that bind or move another mount");
    }
    None
}

/// The name of a mount's type; `None` if a configuration can't mount it.
pub(super) fn kind(mount: &Mount) -> Option<&'static str> {
    let known = KINDS.iter().find(|(number, _)| *number == mount.fstype);
    known.map(|(_, name)| *name)
}

/// Whether a configuration's type is this one. "cgroup" is either version.
pub(super) fn is_kind(configured: &str, kind: &str) -> bool {
    configured == kind
        || (configured == "cgroup" && kind.starts_with("cgroup"))
        || (configured == "cgroup" && kind == "tmpfs")
}

/// Whether a mountpoint is that of a controller below a configuration's cgroup mount,
/// as on cgroup v1.
pub(super) fn is_controller(entry: &MountEntry, mountpoint: &str) -> bool {
    let rest = mountpoint.strip_prefix(&entry.destination);
    entry.kind == "cgroup"
        && rest
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// The configuration's flags must all be there.
pub(super) fn flags(flags: u32, configured: u32) -> Result<(), Difference> {
    let missing = configured & !flags;
    let names = [(1, "read-only"), (2, "nosuid"), (4, "nodev"), (8, "noexec")];
    match names.iter().find(|(flag, _)| missing & flag != 0) {
        Some((_, name)) => Err(differs(
            &format!("is not {name}"),
            "the configuration sets that",
        )),
        None => Ok(()),
    }
}

/// Whether a mount is a terminal of a devpts.
pub(super) fn is_terminal(mount: &Mount) -> bool {
    let index = mount.root.strip_prefix(b"/");
    mount.fstype == DEVPTS
        && index.is_some_and(|index| !index.is_empty() && index.iter().all(u8::is_ascii_digit))
}

/// Whether the directory that a mount shows has no way up and no link of proc in it.
pub(super) fn is_below(mount: &Mount) -> bool {
    canonical(&mount.root).is_some_and(|root| {
        mount.fstype != PROC
            || !root
                .split('/')
                .any(|name| ["root", "cwd", "fd", "exe", "self"].contains(&name))
    })
}

/// An absolute path with plain components.
pub(super) fn canonical(path: &[u8]) -> Option<&str> {
    let path = str::from_utf8(path).ok()?;
    let rest = path.strip_prefix('/')?;
    let is_plain =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    (rest.is_empty() || rest.split('/').all(is_plain)).then_some(path)
}

/// The layers of a configured overlay must be the configuration's.
pub(super) fn layers(mount: &Mount, entry: &MountEntry) -> Result<(), Difference> {
    if kind(mount) != Some("overlay") {
        return Ok(());
    }
    let options = String::from_utf8_lossy(&mount.options);
    let is_layer = |option: &&str| {
        ["lowerdir", "upperdir", "workdir"]
            .iter()
            .any(|name| option.starts_with(name))
    };
    let mut layers = options.split(',').filter(is_layer);
    match layers.find(|option| !entry.layers.iter().any(|layer| layer == option)) {
        Some(other) => Err(differs(
            &format!("has the layer {other}"),
            "the configuration has others",
        )),
        None => Ok(()),
    }
}
