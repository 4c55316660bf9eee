//! Unmounts everything that is mounted at and below a root.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use crate::error::{Context, Result, at};
use crate::procfs;

/// The number of retries of a busy unmount, and the pause between them, as long as in
/// containerd. A fork of another process, or a copy of the mount namespace, holds a
/// mount for some milliseconds, and the kernel has no event for the release.
const ATTEMPTS: usize = 50;
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Unmounts `root` and all mounts below, the deepest first. A missing root or mount
/// is no error.
///
/// # Errors
/// The first mount that stays in use. The others are unmounted nevertheless.
pub(crate) fn unmount(root: &Path) -> Result<()> {
    let Some(root) = canonical(root)? else {
        return Ok(());
    };
    let table = procfs::own_mounts();
    let text = fs::read(&table).context(|| at("read", &table))?;
    let mut result = Ok(());
    for place in places_below(&text, &root) {
        if let Err(e) = unmount_all_at(&place)
            && result.is_ok()
        {
            result = Err(e).context(|| at("unmount", &place));
        }
    }
    result
}

/// The root's path as in the kernel's mount table. The last component is not
/// resolved: a file system whose server has exited can't answer.
fn canonical(root: &Path) -> Result<Option<PathBuf>> {
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Ok(Some(root.to_owned()));
    };
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(Some(parent.join(name))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| at("resolve", parent)),
    }
}

/// Unmounts all mounts that are stacked on one mount point.
fn unmount_all_at(place: &Path) -> nix::Result<()> {
    let mut busy = 0;
    loop {
        match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // No longer a mount point.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) if busy < ATTEMPTS => {
                busy += 1;
                std::thread::sleep(RETRY_INTERVAL);
            }
            Err(e) => return Err(e),
        }
    }
}

/// The mount points at and below `root` in a mount table (proc_pid_mountinfo(5)),
/// the deepest first, each once.
fn places_below(table: &[u8], root: &Path) -> Vec<PathBuf> {
    let mut places: Vec<_> = table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(unescaped)
        .filter(|place| place.starts_with(root))
        .collect();
    places.sort_unstable();
    places.dedup();
    places.sort_by_key(|place| std::cmp::Reverse(place.components().count()));
    places
}

/// A field of the table, in which `\040` is a space.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => path.push(*byte),
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_place_comes_first() {
        let table = b"\
22 1 0:5 / / rw - ext4 /dev/sda rw
30 22 0:6 / /b/rootfs rw - overlay overlay rw
31 30 0:7 / /b/rootfs/with\\040space/x rw - tmpfs tmpfs rw
32 30 0:8 / /b/rootfs rw - overlay overlay rw
33 22 0:9 / /b/rootfs2 rw - tmpfs tmpfs rw
";
        assert_eq!(
            places_below(table, Path::new("/b/rootfs")),
            [Path::new("/b/rootfs/with space/x"), Path::new("/b/rootfs")]
        );
    }

    #[test]
    fn a_missing_root_has_no_mounts() {
        unmount(Path::new("/no/such/bundle/rootfs")).unwrap();
        let empty = tempfile::tempdir().unwrap();
        unmount(&empty.path().join("rootfs")).unwrap();
        unmount(empty.path()).unwrap();
    }

    proptest::proptest! {
        #[test]
        fn no_table_panics(table: Vec<u8>) {
            let _ = places_below(&table, Path::new("/"));
        }

        #[test]
        fn an_escaped_path_is_found(name in "[^/\0]{1,20}") {
            let escaped: String = name
                .bytes()
                .flat_map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                    byte => vec![byte],
                })
                .map(char::from)
                .collect();
            // Latin-1 characters stand for bytes.
            let bytes: Vec<_> = escaped.chars().map(|c| c as u8).collect();
            proptest::prop_assert_eq!(unescaped(&bytes), PathBuf::from(name));
        }
    }
}
