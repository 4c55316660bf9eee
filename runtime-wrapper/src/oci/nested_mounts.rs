//! Hands CRIU the mounts below a container's recursive bind mounts.
//!
//! A bind mount with the option `rbind` brings the mounts below its source along
//! (`docker run -v /:/host`). Runtimes name to CRIU only the mounts of the
//! configuration, so CRIU takes those below for the container's own: it refuses
//! a bind mount among them ("doesn't have a proper root mount"), and of a tmpfs
//! it would make a copy that the host no longer sees. Both sides of a dump can
//! name them, too (`--external mnt[KEY]:...`, criu(8)):
//!
//! ```text
//! dump     /top/sub is mounted in the container, and SOURCE/sub on the host,
//!          and both are the same directory of the same file system: KEY is /top/sub
//! restore  KEY is in the images and below a recursive bind mount of the bundle:
//!          CRIU mounts SOURCE/sub there
//! ```
//!
//! A runc that restores binds such a source, with all mounts below, into the
//! container's root for a moment (libcontainer/criu_linux.go,
//! `prepareCriuRestoreMounts`). Where a mount of the host is shared, unmounting
//! that again unmounts the host's own mounts below it, so runc then gets a mount
//! namespace of its own ([`would_lose_the_hosts`]).
//!
//! What the host no longer has mounted, what the container mounted by itself, and
//! paths that CRIU's configuration can't hold are left to CRIU.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use cedana_checkpoint::criu::config::{ExternalMount, fits};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::oci::spec;

/// The keys under which a dump leaves such mounts out. None where the
/// configuration or the mounts can't be read: CRIU then dumps all of them.
pub(crate) fn to_leave_out(spec: &Value, config: &Path, init: i32) -> Vec<String> {
    let read = || -> Option<Vec<String>> {
        let destinations = Destinations::of(
            spec,
            config.parent()?,
            Path::new(&format!("/proc/{init}/root")),
        );
        if !destinations.are_recursive() {
            return Some(Vec::new());
        }
        let theirs = mounts(&fs::read_to_string(format!("/proc/{init}/mountinfo")).ok()?);
        let ours = mounts(&fs::read_to_string("/proc/self/mountinfo").ok()?);
        Some(shared(&destinations, &theirs, &ours))
    };
    read().unwrap_or_default()
}

/// The container's mounts that came with a recursive bind mount and that the host
/// still has. CRIU takes a key for every mount at that place, so all of them must
/// be the host's: one that the container made on top stays its own.
fn shared(destinations: &Destinations, theirs: &[Mount], ours: &[Mount]) -> Vec<String> {
    let stack = |mounts: &[Mount], place: &Path| -> Vec<(String, String)> {
        mounts
            .iter()
            .filter(|mount| mount.place == place)
            .map(|mount| (mount.device.clone(), mount.root.clone()))
            .collect()
    };
    let is_shared = |place: &Path| {
        let Some(source) = destinations.source_of(place) else {
            return false;
        };
        let (theirs, ours) = (stack(theirs, place), stack(ours, &source));
        // After a restore the uppermost is there as often as there were several.
        source.to_str().is_some_and(fits)
            && theirs.last() == ours.last()
            && theirs.iter().all(|mount| ours.contains(mount))
    };
    let places: BTreeSet<&Path> = theirs.iter().map(|mount| mount.place.as_path()).collect();
    places
        .into_iter()
        .filter(|place| is_shared(place))
        .filter_map(|place| place.to_str().map(str::to_owned))
        .collect()
}

/// What CRIU is to mount for the keys of a checkpoint's images.
///
/// # Errors
/// The path in the container and the host's file or directory that does not
/// exist, that CRIU can't be told, or that a symbolic link would lead to: such a
/// link would show the container a file that its bind mount does not hold.
pub(crate) fn to_bring(
    keys: impl IntoIterator<Item = String>,
    spec: &Value,
    bundle: &Path,
    rootfs: &Path,
) -> Result<Vec<ExternalMount>, (String, PathBuf)> {
    let destinations = Destinations::of(spec, bundle, rootfs);
    let mut found = Vec::new();
    for key in keys {
        let Some(source) = destinations.source_of(Path::new(&key)) else {
            continue;
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let is_there = openat2(nix::fcntl::AT_FDCWD, &source, how).is_ok();
        if !is_there || !source.to_str().is_some_and(fits) {
            return Err((key, source));
        }
        found.push(ExternalMount { key, source });
    }
    Ok(found)
}

/// Whether a restore by runc would unmount mounts of the host: a recursive bind
/// mount brings along one whose parent is shared (mount_namespaces(7)).
pub(crate) fn would_lose_the_hosts(spec: &Value, bundle: &Path) -> bool {
    let ours = fs::read_to_string("/proc/self/mountinfo");
    let ours = ours.map(|text| mounts(&text)).unwrap_or_default();
    let destinations = Destinations::of(spec, bundle, Path::new("/"));
    destinations
        .0
        .iter()
        .filter_map(|at| at.source.as_deref())
        .any(|source| has_shared_below(source, &ours))
}

fn has_shared_below(source: &Path, ours: &[Mount]) -> bool {
    let is_shared = |id: &str| ours.iter().any(|mount| mount.id == id && mount.shared);
    ours.iter()
        .filter(|mount| mount.place != source && mount.place.starts_with(source))
        .any(|mount| is_shared(&mount.parent))
}

/// Where a configuration mounts something.
#[derive(Debug)]
struct Destinations(Vec<Destination>);

#[derive(Debug)]
struct Destination {
    /// In the container, without symbolic links.
    place: PathBuf,
    /// On the host, if it is a recursive bind mount.
    source: Option<PathBuf>,
}

impl Destinations {
    fn of(spec: &Value, bundle: &Path, root: &Path) -> Self {
        let list = |pointer: &str| spec.pointer(pointer).and_then(Value::as_array);
        let mounts = list("/mounts").into_iter().flatten().filter_map(|mount| {
            let text = |key| mount.get(key).and_then(Value::as_str);
            let source = text("source")
                .filter(|_| spec::is_recursive_bind(mount))
                .and_then(|source| bundle.join(source).canonicalize().ok());
            Some(Destination {
                place: within(root, text("destination")?),
                source,
            })
        });
        // Runtimes mount these, too, and name them to CRIU.
        let masked = list("/linux/maskedPaths").into_iter().flatten();
        let devices = list("/linux/devices").into_iter().flatten();
        let others = masked
            .filter_map(Value::as_str)
            .chain(devices.filter_map(|device| device.get("path")?.as_str()))
            .map(|place| Destination {
                place: within(root, place),
                source: None,
            });
        Self(mounts.chain(others).collect())
    }

    fn are_recursive(&self) -> bool {
        self.0.iter().any(|at| at.source.is_some())
    }

    /// The host's path of a mount below a recursive bind mount. None if the
    /// configuration names the place itself, or if what it mounts closest above
    /// is something else.
    fn source_of(&self, place: &Path) -> Option<PathBuf> {
        if !is_plain(place) {
            return None;
        }
        let above = self
            .0
            .iter()
            .filter(|at| place.starts_with(&at.place))
            // Of two on one place the later covers the other.
            .max_by_key(|at| at.place.components().count())?;
        let rest = place.strip_prefix(&above.place).ok()?;
        if rest.as_os_str().is_empty() {
            return None;
        }
        Some(above.source.as_ref()?.join(rest))
    }
}

/// An absolute path without `.` and `..` that CRIU can be told.
fn is_plain(place: &Path) -> bool {
    let plain = place
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && place.is_absolute() && place.to_str().is_some_and(fits)
}

/// A path of the container, with the links in it followed inside its root. A path
/// that does not exist yet, because the runtime makes it, is taken as it stands.
fn within(root: &Path, path: &str) -> PathBuf {
    let followed = || -> io::Result<PathBuf> {
        let root = File::open(root)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let there = openat2(&root, Path::new(path), how)?;
        let name = |fd: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (root, there) = (name(&root)?, name(&there)?);
        there
            .strip_prefix(root)
            .map(|path| Path::new("/").join(path))
            .map_err(io::Error::other)
    };
    followed().unwrap_or_else(|_| Path::new("/").join(path).components().collect())
}

/// A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: String,
    parent: String,
    device: String,
    /// The directory of the file system that is mounted.
    root: String,
    place: PathBuf,
    /// What is mounted on it or unmounted from it is so on its peers, too.
    shared: bool,
}

/// Where something is mounted, by a process's mountinfo.
pub(crate) fn places(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mounts(mountinfo).into_iter().map(|mount| mount.place)
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let mut next = || fields.next();
            Some(Mount {
                id: next()?.to_owned(),
                parent: next()?.to_owned(),
                device: next()?.to_owned(),
                root: next()?.to_owned(),
                place: unescaped(next()?),
                // The mount's options, then any number of tags up to a hyphen.
                shared: fields
                    .skip(1)
                    .take_while(|tag| *tag != "-")
                    .any(|tag| tag.starts_with("shared:")),
            })
        })
        .collect()
}

/// A path in which the kernel wrote blanks, newlines and backslashes as `\040`
/// (seq_path(9)).
pub(crate) fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const CONTAINER: &str = "\
        169 134 254:1 /var/tmp/top /top ro,relatime - ext4 /dev/vda rw\n\
        170 169 0:99 / /top/sub rw - tmpfs t rw\n\
        171 169 254:1 /var/tmp/other/f /top/a/file rw - ext4 /dev/vda rw\n\
        172 169 0:77 / /top/own rw - tmpfs t rw\n\
        179 169 0:81 / /top/twice rw - autofs t rw\n\
        180 179 0:82 / /top/twice rw - tmpfs t rw\n\
        183 169 0:86 / /top/restored rw - tmpfs t rw\n\
        184 183 0:86 / /top/restored rw - tmpfs t rw\n\
        185 169 0:88 / /top/changed rw - tmpfs t rw\n\
        181 169 0:83 / /top/covered rw - tmpfs t rw\n\
        182 181 0:84 / /top/covered rw - tmpfs t rw\n\
        178 169 0:79 / /top/a\\040blank rw - tmpfs t rw\n\
        173 169 0:78 / /top/gone rw - tmpfs t rw\n\
        174 134 254:1 /usr /top/usr ro - ext4 /dev/vda rw\n\
        175 174 0:98 / /top/usr/local ro - tmpfs t rw\n\
        176 134 0:55 / /proc rw - proc proc rw\n\
        177 176 0:56 / /proc/sys ro - proc proc rw\n";

    fn destinations(host: &Path) -> Destinations {
        let top = host.join("top");
        fs::create_dir(&top).expect("directory");
        let spec = json!({
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/top/", "type": "bind", "source": top, "options": ["rbind", "ro"]},
                {"destination": "/top/usr", "type": "none", "source": "/usr", "options": ["bind"]},
            ],
            "linux": {"maskedPaths": ["/top/masked"], "devices": [{"path": "/top/device"}]},
        });
        Destinations::of(&spec, host, &host.join("root"))
    }

    #[test]
    fn only_what_the_host_still_has_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = dir.path().canonicalize().expect("path");
        let destinations = destinations(&host);
        let line = |device: &str, root: &str, place: &str| {
            format!(
                "1 2 {device} {root} {}/top{place} rw - x x rw\n",
                host.display()
            )
        };
        let ours = [
            line("0:81", "/", "/twice"),
            line("0:82", "/", "/twice"),
            line("0:83", "/", "/covered"),
            line("0:85", "/", "/restored"),
            line("0:86", "/", "/restored"),
            line("0:88", "/", "/changed"),
            line("0:89", "/", "/changed"),
            line("0:99", "/", "/sub"),
            line("254:1", "/var/tmp/other/f", "/a/file"),
            line("0:79", "/", "/a\\040blank"),
            line("0:6", "/", "/own"),
            line("0:98", "/", "/usr/local"),
        ]
        .concat();
        assert_eq!(
            shared(&destinations, &mounts(CONTAINER), &mounts(&ours)),
            ["/top/a/file", "/top/restored", "/top/sub", "/top/twice"]
        );
    }

    #[test]
    fn what_the_configuration_names_is_the_runtimes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = dir.path().canonicalize().expect("path");
        let destinations = destinations(&host);
        let source = |place: &str| destinations.source_of(Path::new(place));
        assert!(destinations.are_recursive());
        assert_eq!(source("/top/x/y"), Some(host.join("top/x/y")));
        for place in [
            "/top",
            "/top/usr",
            "/top/usr/x",
            "/top/masked",
            "/top/device",
            "/topmost",
            "/proc/sys",
            "top/x",
            "/top/../x",
            "/top/\"x",
            "/top/x\n",
            "/top/a b",
        ] {
            assert_eq!(source(place), None, "{place}");
        }
    }

    #[test]
    fn a_restore_follows_no_link_out_of_the_bind_mount() {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = dir.path().canonicalize().expect("path");
        let top = host.join("top");
        fs::create_dir_all(top.join("sub")).expect("directory");
        std::os::unix::fs::symlink("/etc", top.join("link")).expect("link");
        let spec = json!({"mounts": [
            {"destination": "/top", "type": "bind", "source": "top", "options": ["rbind"]},
        ]});
        let bring = |key: &str| to_bring([key.to_owned()], &spec, &host, &host.join("root"));
        let found = bring("/top/sub").expect("there");
        assert_eq!(found[0].source, top.join("sub"));
        assert_eq!(bring("/elsewhere").expect("not ours").len(), 0);
        for (key, source) in [("/top/none", "none"), ("/top/link/ssl", "link/ssl")] {
            assert_eq!(bring(key), Err((key.to_owned(), top.join(source))));
        }
    }

    #[test]
    fn a_shared_parent_would_cost_the_host_its_mounts() {
        let lost = |source: &str, tag: &str| {
            let ours = format!(
                "1 0 0:1 / / rw - x x rw\n\
                 2 1 0:2 / /data rw{tag} - x x rw\n\
                 3 2 0:3 / /data/cache rw - x x rw\n"
            );
            has_shared_below(Path::new(source), &mounts(&ours))
        };
        assert!(lost("/data", " shared:7 master:3"));
        assert!(lost("/", " shared:7"));
        assert!(!lost("/data", ""));
        assert!(!lost("/data", " master:7"));
        assert!(!lost("/data/cache", " shared:7"));
        assert!(!lost("/dat", " shared:7"));
    }

    #[test]
    fn links_in_a_destination_stay_in_the_root() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path();
        fs::create_dir_all(root.join("run/there")).expect("directory");
        fs::create_dir(root.join("var")).expect("directory");
        std::os::unix::fs::symlink("/run", root.join("var/run")).expect("link");
        assert_eq!(within(root, "/var/run/there"), Path::new("/run/there"));
        assert_eq!(within(root, "/not//yet/"), Path::new("/not/yet"));
    }

    proptest! {
        #[test]
        fn no_mountinfo_panics(text in "[\\\\0-9a-f :/\\PC\n]{0,80}") {
            let _ = mounts(&text);
            let _ = unescaped(&text);
        }
    }
}
