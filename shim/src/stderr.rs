//! Captures what a command prints on stderr.
//!
//! The text is kept in a memfd: a detached child of the command could hold a pipe open
//! for ever.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    process::Command,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Context, Result};

/// More text than this is no error message.
const LIMIT: u64 = 1 << 20;

/// Redirects a command's stderr into a memfd.
///
/// # Errors
/// A memfd that can't be created.
pub(crate) fn capture(command: &mut Command) -> Result<File> {
    let memory = memfd_create(c"stderr", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?;
    let kept = File::from(memory);
    command.stderr(kept.try_clone().context(|| "duplicate a memfd")?);
    Ok(kept)
}

/// The captured stderr, if not empty.
pub(crate) fn text(mut stderr: File) -> Option<String> {
    let mut text = String::new();
    stderr.seek(SeekFrom::Start(0)).ok()?;
    stderr.take(LIMIT).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
