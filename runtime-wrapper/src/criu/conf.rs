//! The wrapped runtime's CRIU: its version, and its configuration for one run.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};

use cedana_checkpoint::criu::config::FILE_VARIABLE;
use cedana_checkpoint::criu::{Version, version};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cli::Request;
use crate::host::procfs;

/// The version of CRIU, checked to be installed and not too old. runc 1.1 has a flag
/// for its path; crun and later runcs take it from `PATH`.
pub(crate) fn check(request: &Request) -> Result<Version, version::Error> {
    Ok(match &request.globals.criu {
        Some(program) if program.is_absolute() && program.exists() => version::ask(program)?,
        _ => version::find(&env::var_os("PATH").unwrap_or_default())?.1,
    })
}

/// A CRIU configuration file in memory. CRIU, our grandchild, opens it through our
/// entry in /proc, so no file is left if we are killed.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    file: File,
}

impl ConfigFile {
    /// Writes the options that `render` returns. It is given the text of the file that
    /// the caller's environment names, so that the caller's options stay in effect.
    pub(crate) fn new(render: impl FnOnce(Option<&str>) -> String) -> io::Result<Self> {
        let inherited = match env::var_os(FILE_VARIABLE) {
            Some(path) => match fs::read_to_string(&path) {
                Ok(text) => Some(text),
                // CRIU takes a missing file for an empty one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let mut file = File::from(memfd_create(c"criu.conf", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(render(inherited.as_deref()).as_bytes())?;
        Ok(Self { file })
    }

    /// The environment variable that makes CRIU read it.
    pub(crate) fn variable(&self) -> (&'static str, OsString) {
        (FILE_VARIABLE, procfs::descriptor(&self.file).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_checkpoint::criu::DumpOptions;
    use std::time::Duration;

    #[test]
    fn configuration_is_readable_through_proc() {
        let options = DumpOptions {
            external_netns: None,
            external_mounts: Vec::new(),
            ghost_limit: 1,
            link_remap: false,
            timeout: Duration::from_secs(2),
            action_script: None,
        };
        let file = ConfigFile::new(|inherited| options.render(inherited)).expect("memfd");
        let (_, path) = file.variable();
        assert_eq!(
            fs::read_to_string(path).expect("read"),
            "ghost-limit 1\nirmap-scan-path /usr/share/zoneinfo\ntimeout 2\n"
        );
    }
}
