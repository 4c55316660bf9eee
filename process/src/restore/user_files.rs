//! Files that a user could have replaced, opened with the user's rights.
//!
//! CRIU opens recorded paths as root. The user may own a directory on the way and put a
//! link to another file there, at any moment until CRIU has opened the path. So each file
//! on such a path is opened here, as the user: the kernel decides what a link may lead
//! to. CRIU takes the descriptor in place of the path (`inherit_fd`, by the path without
//! its first slash; criu/files.c, `inherited_fd`).
//!
//! CRIU restores no position of such a descriptor, so it is set here. And it gives the
//! same one to all descriptors of the path, so a path that is open in several ways is
//! refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cedana_checkpoint::format::contents::Contents;
use cedana_checkpoint::precheck::{OpenFile, check_user};
use nix::libc;

use crate::owner::Owner;

/// The flags that a descriptor keeps (open(2)). Those that make or empty a file are not
/// among them.
const KEPT: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECTORY
    | libc::O_PATH
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | libc::O_NOATIME;

/// The mode bits of directories.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Checks a user's checkpoint, and opens its files but those for which the caller has
/// given descriptors, by CRIU's keys.
///
/// # Errors
/// The reason against it.
pub(super) fn open(
    images: &Contents,
    owner: &Owner,
    is_given: impl Fn(&str) -> bool,
) -> Result<Vec<(String, OwnedFd)>, String> {
    let found = check_user(images, &owner.as_user()).map_err(|error| error.to_string())?;
    if !found.refusals.is_empty() {
        let texts: Vec<String> = found.refusals.iter().map(ToString::to_string).collect();
        return Err(texts.join("; "));
    }
    let mut opened: BTreeMap<&Path, OwnedFd> = BTreeMap::new();
    for file in &found.files {
        if is_roots(&file.path) || is_given(&key(&file.path)) {
            continue;
        }
        let shown = file.path.display();
        let open = owner.act(|| open_file(file));
        let open =
            open.map_err(|error| format!("user {} cannot open {shown}: {error}", owner.uid))?;
        if opened.insert(&file.path, open).is_some() {
            return Err(format!(
                "{shown} is open in several ways, which CRIU can only restore as root"
            ));
        }
    }
    Ok(opened
        .into_iter()
        .map(|(path, file)| (key(path), file))
        .collect())
}

/// CRIU's key of a file.
fn key(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn open_file(file: &OpenFile) -> io::Result<OwnedFd> {
    let flags = file.flags.cast_signed() & KEPT;
    let access = flags & libc::O_ACCMODE;
    let mut open = File::options()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags & !libc::O_ACCMODE | libc::O_NOCTTY)
        .open(&file.path)?;
    let status = open.metadata()?;
    if !status.is_file() && !status.is_dir() {
        return Err(io::Error::other("it is not a file or a directory"));
    }
    if let Some(size) = file
        .size
        .filter(|size| status.is_file() && *size != status.size())
    {
        return Err(io::Error::other(format!(
            "it has {} bytes but had {size} at the checkpoint",
            status.size()
        )));
    }
    if status.is_file() && file.position > 0 {
        open.seek(SeekFrom::Start(file.position))?;
    }
    Ok(open.into())
}

/// Whether only root can change what a path leads to: it has no link, and each directory
/// on it is root's and not writable by others, or sticky with an entry of root's.
fn is_roots(path: &Path) -> bool {
    let mut at = PathBuf::new();
    let mut above: Option<fs::Metadata> = None;
    for component in path.components() {
        at.push(component);
        let Ok(status) = fs::symlink_metadata(&at) else {
            return false;
        };
        let is_safe_above = above.as_ref().is_none_or(|above| {
            above.uid() == 0 && (above.mode() & OTHERS_WRITE == 0 || above.mode() & STICKY != 0)
        });
        if !is_safe_above || status.uid() != 0 || status.is_symlink() {
            return false;
        }
        above = Some(status);
    }
    path.is_absolute()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_of_root_alone_are_told_apart() {
        assert!(is_roots(Path::new("/etc")));
        assert!(!is_roots(Path::new("/proc/self")));
        assert!(!is_roots(Path::new("etc")));
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").expect("write");
        symlink("file", at("link")).expect("symlink");
        assert!(is_roots(&at("file")));
        assert!(!is_roots(&at("link")) && !is_roots(&at("missing")));
        fs::create_dir(at("users")).expect("mkdir");
        fs::write(at("users/file"), "x").expect("write");
        std::os::unix::fs::chown(at("users"), Some(12345), None).expect("chown");
        assert!(!is_roots(&at("users/file")));
    }

    #[test]
    fn files_are_opened_where_they_were() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        fs::write(&path, "content").expect("write");
        let file = |size| OpenFile {
            path: path.clone(),
            flags: (libc::O_RDWR | libc::O_TRUNC).cast_unsigned(),
            position: 4,
            size,
        };
        let mut open = File::from(open_file(&file(Some(7))).expect("open"));
        assert_eq!(open.stream_position().expect("position"), 4);
        assert_eq!(fs::read(&path).expect("read"), b"content");
        let error = open_file(&file(Some(8))).expect_err("another size");
        assert!(error.to_string().contains("had 8"), "{error}");
    }
}
