//! CRIU's working directory: its log, its statistics, and the page source's socket.
//!
//! It is in memory and not beside the images, so that a full disk does not keep CRIU from
//! saying so.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use cedana_checkpoint::format::publish::Scratch;
use cedana_checkpoint::opened::OpenedDir;

const DIR: &str = "/run/cedana/process";

/// Makes a working directory, and removes those that killed commands left.
pub(crate) fn directory() -> io::Result<Scratch> {
    let dir = Path::new(DIR);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    Scratch::create(OpenedDir::open(dir)?).map_err(io::Error::other)
}
