//! `PATH`: set where the caller set none, and searched for a program.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Sets `PATH` where the caller set none, for this process and for the programs
/// that it starts. To be called first in `main`.
pub(crate) fn provide() {
    let path = env::var_os("PATH");
    if let Some(missing) = cedana_config::missing_search_path(path.as_deref()) {
        // SAFETY: there is one thread, so none reads the environment meanwhile.
        unsafe { env::set_var("PATH", missing) };
    }
}

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
