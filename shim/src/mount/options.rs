//! Sorts mount options into flags of mount(2), containerd's own and those of the file
//! system, and splits an overlay's layers.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;

use crate::error::{Error, Result};

/// The options of one mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options<'a> {
    /// The flags of mount(2).
    pub(super) flags: MsFlags,
    /// The file system's options, in order.
    pub(super) data: Vec<&'a str>,
    /// The source is a file, to be mounted through a loop device.
    pub(super) loop_device: bool,
    /// The loop device reads and writes past the page cache.
    pub(super) direct_io: bool,
    uid_map: Option<&'a str>,
    gid_map: Option<&'a str>,
}

/// The mapping of file owners in a mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdMaps {
    /// Lines of `/proc/PID/uid_map`.
    pub(super) users: String,
    /// Lines of `/proc/PID/gid_map`.
    pub(super) groups: String,
}

/// The effect of an option on a flag.
enum Flag {
    Set(MsFlags),
    Clear(MsFlags),
}

/// containerd's table (`core/mount/mount_linux.go`, parseMountOptions).
fn flag(option: &str) -> Option<Flag> {
    use Flag::{Clear, Set};
    Some(match option {
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "bind" => Set(MsFlags::MS_BIND),
        "defaults" => Set(MsFlags::empty()),
        "dev" => Clear(MsFlags::MS_NODEV),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "mand" => Set(MsFlags::MS_MANDLOCK),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "nodev" => Set(MsFlags::MS_NODEV),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "nomand" => Clear(MsFlags::MS_MANDLOCK),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "rbind" => Set(MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "remount" => Set(MsFlags::MS_REMOUNT),
        "ro" => Set(MsFlags::MS_RDONLY),
        "rw" => Clear(MsFlags::MS_RDONLY),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "suid" => Clear(MsFlags::MS_NOSUID),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        _ => return None,
    })
}

impl<'a> Options<'a> {
    /// Sorts `options`. Of two contradictory options the later one counts.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an option that only containerd's mount
    /// manager understands.
    pub(super) fn parse(options: &'a [String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            data: Vec::new(),
            loop_device: options.iter().any(|option| option == "loop"),
            direct_io: false,
            uid_map: None,
            gid_map: None,
        };
        for option in options {
            if option.starts_with("X-containerd.") {
                return Err(Error::InvalidArgument(format!(
                    "mount option {option:?} is for containerd's mount manager, which has not \
                     resolved it: containerd 2.2 or newer is needed"
                )));
            }
            match flag(option) {
                Some(Flag::Set(flag)) => parsed.flags |= flag,
                Some(Flag::Clear(flag)) => parsed.flags &= !flag,
                None if option == "loop" => {}
                None if parsed.loop_device && option == "direct-io" => parsed.direct_io = true,
                None => match option.split_once('=') {
                    Some(("uidmap", map)) => parsed.uid_map = Some(map),
                    Some(("gidmap", map)) => parsed.gid_map = Some(map),
                    _ => parsed.data.push(option),
                },
            }
        }
        Ok(parsed)
    }

    /// The id maps, if both are given.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid map.
    pub(super) fn id_maps(&self) -> Result<Option<IdMaps>> {
        // containerd ignores one map without the other (core/mount/mount_linux.go,
        // "The only remapping of both GID and UID is supported").
        let (Some(uid_map), Some(gid_map)) = (self.uid_map, self.gid_map) else {
            return Ok(None);
        };
        let lines = |name: &str, map: &str| {
            map_lines(map).ok_or_else(|| {
                Error::InvalidArgument(format!(
                    "mount option {name}={map} is not container-id:host-id:size[,...]"
                ))
            })
        };
        Ok(Some(IdMaps {
            users: lines("uidmap", uid_map)?,
            groups: lines("gidmap", gid_map)?,
        }))
    }
}

/// Converts `0:100000:65536,...` to the form of user_namespaces(7): `0 100000 65536`,
/// a line for each range.
fn map_lines(map: &str) -> Option<String> {
    map.split(',')
        .map(|range| {
            let mut numbers = range.split(':').map(str::parse::<u32>);
            let mut next = || numbers.next()?.ok();
            let (inside, outside, size) = (next()?, next()?, next()?);
            (numbers.next().is_none() && size > 0).then(|| format!("{inside} {outside} {size}\n"))
        })
        .collect()
}

const LOWER: &str = "lowerdir=";

/// An overlay's lower layers, topmost first, as in the options.
pub(super) struct Layers<'a> {
    index: usize,
    /// Paths in which a backslash escapes a colon (kernel doc:
    /// filesystems/overlayfs.rst). An empty path, from `::`, means that the layers
    /// after it hold data only.
    pub(super) paths: Vec<&'a str>,
}

impl<'a> Layers<'a> {
    /// Finds the layers among an overlay's options.
    pub(super) fn find(data: &[&'a str]) -> Option<Self> {
        let index = data.iter().position(|option| option.starts_with(LOWER))?;
        let value = data.get(index)?.strip_prefix(LOWER)?;
        let mut paths = Vec::new();
        let (mut start, mut escaped) = (0, false);
        for (at, byte) in value.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b':' => {
                    paths.push(&value[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        paths.push(&value[start..]);
        Some(Self { index, paths })
    }

    /// `data` with other lower layers, given in the same order.
    pub(super) fn replace(&self, data: &[&str], paths: &[impl AsRef<str>]) -> Vec<String> {
        let paths: Vec<_> = paths.iter().map(AsRef::as_ref).collect();
        let mut data: Vec<_> = data.iter().map(|&option| option.to_owned()).collect();
        data[self.index] = format!("{LOWER}{}", paths.join(":"));
        data
    }
}

/// A layer's path without the escapes.
pub(super) fn unescaped(layer: &str) -> PathBuf {
    let mut bytes = layer.bytes();
    let mut path = Vec::with_capacity(layer.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            byte => path.push(byte),
        }
    }
    OsString::from_vec(path).into()
}

/// Shortens an overlay's options: returns the common directory of all lower layers,
/// and the options with paths relative to that directory. None without a common
/// directory.
pub(super) fn shorten(data: &[&str]) -> Option<(PathBuf, Vec<String>)> {
    let layers = Layers::find(data)?;
    let mut named = layers.paths.iter().filter(|path| !path.is_empty());
    let first = named.next()?;
    let mut common = first.rfind('/')? + 1;
    for path in named {
        let same = first
            .bytes()
            .zip(path.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        common = common.min(first.get(..same)?.rfind('/')? + 1);
    }
    let directory = unescaped(first.get(..common)?);
    if directory == Path::new("/") || !directory.as_os_str().as_bytes().starts_with(b"/") {
        return None;
    }
    let relative: Option<Vec<_>> = layers
        .paths
        .iter()
        .map(|path| match path.get(common..) {
            None if path.is_empty() => Some(""),
            // The directory itself is a layer.
            Some("") => None,
            relative => relative,
        })
        .collect();
    Some((directory, layers.replace(data, &relative?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|&o| o.to_owned()).collect()
    }

    #[test]
    fn flags_leave_the_rest_to_the_file_system() {
        let given = options(&["rbind", "ro", "nosuid", "suid", "defaults", "index=off"]);
        let parsed = Options::parse(&given).unwrap();
        assert_eq!(
            parsed.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
        assert_eq!(parsed.data, ["index=off"]);
        assert_eq!(parsed.id_maps().unwrap(), None);
        let later = options(&["ro", "rw"]);
        assert_eq!(Options::parse(&later).unwrap().flags, MsFlags::empty());
    }

    #[test]
    fn direct_io_belongs_to_a_loop_device() {
        let with = options(&["direct-io", "loop", "noload"]);
        let parsed = Options::parse(&with).unwrap();
        assert!(parsed.loop_device && parsed.direct_io);
        assert_eq!(parsed.data, ["noload"]);
        let without = options(&["direct-io"]);
        let parsed = Options::parse(&without).unwrap();
        assert!(!parsed.loop_device && !parsed.direct_io);
        assert_eq!(parsed.data, ["direct-io"]);
    }

    #[test]
    fn id_maps_are_the_kernels_lines() {
        let users = "uidmap=0:100000:65536,65536:300000:1";
        let given = options(&[users, "gidmap=0:7:1", "lowerdir=/a"]);
        let parsed = Options::parse(&given).unwrap();
        assert_eq!(parsed.data, ["lowerdir=/a"]);
        assert_eq!(
            parsed.id_maps().unwrap().unwrap(),
            IdMaps {
                users: "0 100000 65536\n65536 300000 1\n".into(),
                groups: "0 7 1\n".into(),
            }
        );
        let alone = options(&[users]);
        assert_eq!(Options::parse(&alone).unwrap().id_maps().unwrap(), None);
        for wrong in ["", "0:1", "0:1:2:3", "0:-1:2", "a:b:c", "0:1:0", "0:1:2,"] {
            let given = options(&[users, &format!("gidmap={wrong}")]);
            let refusal = Options::parse(&given).unwrap().id_maps().unwrap_err();
            assert!(refusal.to_string().contains("gidmap="), "{refusal}");
        }
    }

    #[test]
    fn an_option_of_the_mount_manager_is_refused_by_name() {
        let given = options(&["X-containerd.mkdir.path=/x"]);
        let refusal = Options::parse(&given).unwrap_err().to_string();
        assert!(refusal.contains("X-containerd.mkdir.path=/x"), "{refusal}");
    }

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        let data = ["index=off", r"lowerdir=/a\:b/1:/a\:b/2::/data", "userxattr"];
        let layers = Layers::find(&data).unwrap();
        assert_eq!(layers.paths, [r"/a\:b/1", r"/a\:b/2", "", "/data"]);
        assert_eq!(unescaped(layers.paths[0]), Path::new("/a:b/1"));
        assert_eq!(
            layers.replace(&data, &["0", "1", "", "2"]),
            ["index=off", "lowerdir=0:1::2", "userxattr"]
        );
        assert!(Layers::find(&["upperdir=/u"]).is_none());
    }

    #[test]
    fn layers_of_one_directory_are_shortened() {
        let data = ["upperdir=/s/3/fs", "lowerdir=/s/12/fs:/s/1/fs::/s/d"];
        let (directory, short) = shorten(&data).unwrap();
        assert_eq!(directory, Path::new("/s/"));
        assert_eq!(short, ["upperdir=/s/3/fs", "lowerdir=12/fs:1/fs::d"]);
        for apart in ["lowerdir=/a/1:/b/1", "lowerdir=a/1:a/2", "lowerdir=", "x"] {
            assert!(shorten(&[apart]).is_none(), "{apart}");
        }
        assert!(shorten(&["lowerdir=/s/a/:/s/a/b"]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_options_panic(list: Vec<String>) {
            if let Ok(parsed) = Options::parse(&list) {
                let _ = parsed.id_maps();
                let _ = shorten(&parsed.data);
            }
        }

        #[test]
        fn shortened_layers_are_the_same(layers in proptest::collection::vec("(/[a-c:é\\\\]{1,3}){1,4}", 1..6)) {
            // A snapshotter writes no bare colon and no bare backslash.
            let escaped: Vec<_> = layers
                .iter()
                .map(|l| l.replace('\\', r"\\").replace(':', r"\:"))
                .collect();
            let option = format!("lowerdir={}", escaped.join(":"));
            if let Some((directory, short)) = shorten(&[&option]) {
                let short: Vec<_> = short.iter().map(String::as_str).collect();
                let again: Vec<_> = Layers::find(&short).unwrap().paths.iter()
                    .map(|path| directory.join(unescaped(path)))
                    .collect();
                let wanted: Vec<_> = layers.iter().map(PathBuf::from).collect();
                proptest::prop_assert_eq!(again, wanted);
            }
        }
    }
}
