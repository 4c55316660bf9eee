//! The wrapped runtime's program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use crate::cli::ContainerId;
use crate::host::search_path;

/// Why no runtime can be wrapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the wrapped runtime \"{}\" is not in PATH ({path}); install it, or set runtime in config.toml", name.display())]
    NotInPath { name: PathBuf, path: String },
    #[error("the wrapped runtime {} cannot be run: {source}; set runtime in config.toml to runc or crun", program.display())]
    Unusable { program: PathBuf, source: io::Error },
    #[error("the wrapped runtime {} is cedana-runc itself; set runtime in config.toml (or CEDANA_RUNTIME) to runc or crun", program.display())]
    Itself { program: PathBuf },
}

/// An existing runtime other than this program.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) program: PathBuf,
}

impl Runtime {
    /// Finds the program for a name or an absolute path.
    pub(crate) fn find(name: &Path) -> Result<Self, Error> {
        let program = if name.is_absolute() {
            name.to_owned()
        } else {
            let path = env::var_os("PATH").unwrap_or_default();
            search_path::find(name, &path).ok_or_else(|| Error::NotInPath {
                name: name.to_owned(),
                path: path.to_string_lossy().into_owned(),
            })?
        };
        let unusable = |source| Error::Unusable {
            program: program.clone(),
            source,
        };
        let found = fs::metadata(&program).map_err(unusable)?;
        // Compared by file, since a link or a second name in PATH would make us start
        // ourselves for ever; and by name, for a copy of this program.
        let ours = fs::metadata("/proc/self/exe").map_err(unusable)?;
        let same_file = (found.dev(), found.ino()) == (ours.dev(), ours.ino());
        let target = fs::canonicalize(&program).unwrap_or_else(|_| program.clone());
        if same_file || target.file_name() == Some(OsStr::new("cedana-runc")) {
            return Err(Error::Itself { program });
        }
        Ok(Self { program })
    }

    /// Whether this is crun: by its name, or by its `--version` if it is called
    /// neither crun nor runc.
    pub(crate) fn is_crun(&self) -> bool {
        match self.program.file_name().and_then(OsStr::to_str) {
            Some("crun") => true,
            Some("runc") => false,
            _ => self.version().starts_with("crun "),
        }
    }

    /// The output of `--version`, empty if it can't be run.
    pub(crate) fn version(&self) -> String {
        Command::new(&self.program)
            .arg("--version")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }

    /// A command of this runtime. Its argv\[0\] is the program's path, from
    /// which crun chooses its handler.
    pub(crate) fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command
    }
}

/// Unmounts the container's root that a killed restore can leave in the runtime's
/// state (`criu-root`; runc 1.1 to 1.4, `restore`), because runc's delete would
/// remove all files in it.
pub(crate) fn unmount_leftover_root(root: Option<&Path>, id: &ContainerId) {
    let root = root.unwrap_or(Path::new("/run/runc"));
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    // An error means that it does not exist or is no mount point, as it should be.
    let _ = umount2(&root.join(id).join("criu-root"), flags);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn itself_is_refused() {
        let ourselves = env::current_exe().expect("a test has a path");
        assert!(matches!(
            Runtime::find(&ourselves),
            Err(Error::Itself { .. })
        ));
        let dir = tempfile::tempdir().expect("tempdir");
        let link = dir.path().join("runc");
        std::os::unix::fs::symlink(&ourselves, &link).expect("symlink");
        assert!(matches!(Runtime::find(&link), Err(Error::Itself { .. })));
        let copy = dir.path().join("cedana-runc");
        fs::copy("/bin/true", &copy).expect("copy");
        assert!(matches!(Runtime::find(&copy), Err(Error::Itself { .. })));
    }

    #[test]
    fn missing_runtime_is_named() {
        let error = Runtime::find(Path::new("no-such-runtime")).expect_err("missing");
        assert!(error.to_string().contains("no-such-runtime"));
        let error = Runtime::find(Path::new("/no/such/runtime")).expect_err("missing");
        assert!(error.to_string().contains("/no/such/runtime"));
    }
}
