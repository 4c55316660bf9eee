//! The standard streams of a restored container.
//!
//! There is no client that would read or write them: what the container writes is thrown
//! away, and its standard input stays open and empty. The container still gets pipes, which
//! the shim copies: with empty addresses the shim would give it the host's /dev/null, and a
//! container with a file of the host can't be dumped again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{mkdtemp, mkfifo};

use crate::checkpoints::{Failure, Kind};

/// containerd's directory of fifos (`defaults.DefaultFIFODir`). A client that removes a
/// task, such as `ctr task rm`, removes its fifos, and their directory if that is empty.
const DIRECTORY: &str = "/run/containerd/fifo";

/// Addresses of streams.
pub(super) struct Streams {
    directory: PathBuf,
    pub(super) stdin: String,
    /// Standard output, and standard error if there is no terminal.
    pub(super) output: &'static str,
}

impl Streams {
    /// Makes the fifo of standard input.
    pub(super) fn make(id: &str, terminal: bool) -> Result<Self, Failure> {
        let directory = Path::new(DIRECTORY);
        let failed = |error: io::Error| {
            Failure::new(
                Kind::System,
                format!("could not make a fifo in {}: {error}", directory.display()),
            )
        };
        fs::create_dir_all(directory).map_err(failed)?;
        let directory =
            mkdtemp(&directory.join("cedana-XXXXXX")).map_err(|error| failed(error.into()))?;
        let stdin = directory.join(format!("{id}-stdin"));
        let streams = Self {
            stdin: stdin.display().to_string(),
            directory,
            // containerd's shim opens a terminal's output as a path, and takes an address
            // of a file for pipes alone.
            output: match terminal {
                true => "/dev/null",
                false => "file:///dev/null",
            },
        };
        match mkfifo(&stdin, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) => Ok(streams),
            Err(error) => {
                streams.remove();
                Err(failed(error.into()))
            }
        }
    }

    /// Removes the fifo.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            log::warn!("could not remove {}: {error}", self.directory.display());
        }
    }
}
