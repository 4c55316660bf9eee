//! The search for a program in `PATH`.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The first executable file with this name in the directories of `path`.
pub(crate) fn find(program: &Path, path: &OsStr) -> Option<PathBuf> {
    let is_executable = |candidate: &PathBuf| {
        fs::metadata(candidate)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(is_executable)
}
