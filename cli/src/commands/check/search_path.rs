//! Programs in PATH.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where system programs are that the PATH of a user may lack.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program in this PATH.
pub(super) fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

/// Finds a program in this program's PATH. Without root also where system programs are:
/// the daemon and the engines run as root, and have those directories.
pub(super) fn find(name: &str, is_root: bool) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(&path, name).or_else(|| {
        let files = SYSTEM.iter().map(|dir| Path::new(dir).join(name));
        let mut files = files.filter(|file| !is_root && is_program(file));
        files.next()
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_an_executable_file() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("data"), "").expect("written");
        std::fs::create_dir(dir.path().join("folder")).expect("created");
        let path = env::join_paths([dir.path(), Path::new("/bin")]).expect("a PATH");
        assert_eq!(find_in(&path, "sh"), Some("/bin/sh".into()));
        assert_eq!(find_in(&path, "data"), None);
        assert_eq!(find_in(&path, "folder"), None);
    }
}
